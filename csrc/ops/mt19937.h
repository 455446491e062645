// The normal numbers of torch's CPU generator: its state, the checks, and the order of the work.
#pragma once

#include <cstring>

#include "functors/mt19937.h"
#include "launch/isa.h"
#include "ops/checks.h"

namespace septet {

// The generator between two words: `left - 1` words from `next` on are unread, then come new ones.
struct Mt19937 {
  uint32_t words[kMt19937Words];
  int64_t next;
  int64_t left;
};

// What torch.Generator.get_state() holds on a CPU, as far as it is used here: after the words come
// the second halves of single normals, which a draw of 16 or more neither reads nor changes.
struct TorchCpuState {
  uint64_t seed;
  int32_t left;
  int32_t seeded;
  uint64_t next;
  uint64_t words[kMt19937Words];  // one in each lower half
  uint64_t single_normals[5];
};
static_assert(sizeof(TorchCpuState) == 5056);

struct Mt19937Args {
  float* out = nullptr;
  int64_t numel = 0;
  void* state = nullptr;
  Mt19937 engine;
};

// torch turns 16 words into 16 normals at a time, and draws fewer in another way.
inline constexpr int64_t kMt19937Block = 16;

inline constexpr const char* kMt19937Schema =
    "mt19937_normal(Tensor(a!) out, Tensor(b!) state) -> ()";

// Checks the arguments; throws std::invalid_argument.
inline Mt19937Args plan_mt19937(const TensorView& out, const TensorView& state) {
  const char* op = "mt19937_normal";
  require_dtype(op, "out", out, Dtype::float32);
  require(is_contiguous(out), op, "out must be contiguous");
  require_device(op, "out", out, -1);
  Mt19937Args args;
  args.out = static_cast<float*>(out.data);
  args.numel = out.numel();
  require(args.numel >= kMt19937Block, op, "out must hold at least ", kMt19937Block,
          " values, got ", args.numel);
  require_dtype(op, "state", state, Dtype::uint8);
  require_device(op, "state", state, -1);
  constexpr auto kBytes = static_cast<int64_t>(sizeof(TorchCpuState));
  require(state.dim == 1 && state.size(0) == kBytes && is_contiguous(state), op,
          "state must be contiguous [", kBytes, "], got ", shape_text(state));
  args.state = state.data;
  TorchCpuState torch;
  std::memcpy(&torch, state.data, sizeof(torch));
  const bool valid = torch.seeded != 0 && torch.left >= 1 && torch.left <= kMt19937Words &&
                     torch.next <= static_cast<uint64_t>(kMt19937Words + 1 - torch.left);
  require(valid, op, "state must be that of a CPU generator, got left ", torch.left, ", next ",
          torch.next, ", seeded ", torch.seeded);
  args.engine.left = torch.left;
  args.engine.next = static_cast<int64_t>(torch.next);
  for (int i = 0; i < kMt19937Words; ++i) {
    args.engine.words[i] = static_cast<uint32_t>(torch.words[i]);
  }
  return args;
}

inline void save_engine(const Mt19937& engine, void* state) {
  TorchCpuState torch;
  std::memcpy(&torch, state, sizeof(torch));
  torch.left = static_cast<int32_t>(engine.left);
  torch.next = static_cast<uint64_t>(engine.next);
  for (int i = 0; i < kMt19937Words; ++i) torch.words[i] = engine.words[i];
  std::memcpy(state, &torch, sizeof(torch));
}

}  // namespace septet

// Writes the next `count` words, not yet tempered, into memory that will hold floats.
SEPTET_DECLARE_PER_ISA(void mt19937_words(Mt19937& engine, void* out, int64_t count))
// Turns whole blocks of such words into normals, in place.
SEPTET_DECLARE_PER_ISA(void mt19937_normals(float* values, int64_t count))

namespace septet {

// Draws and advances the state. split(count, range) calls range(begin, end) over [0, count), at
// boundaries that are multiples of 16. The words form one sequence and are written by one thread,
// which takes a tenth of the time or so.
template <class Split>
void draw_mt19937(const Mt19937Args& args, const Split& split) {
  Mt19937 engine = args.engine;
  SEPTET_CALL_ISA(mt19937_words, engine, args.out, args.numel);
  // torch redraws the last 16 values, with words of their own, where blocks leave a rest.
  const int64_t rest = args.numel % kMt19937Block;
  float last[kMt19937Block];
  if (rest != 0) SEPTET_CALL_ISA(mt19937_words, engine, last, kMt19937Block);
  split(args.numel - rest, [&](int64_t begin, int64_t end) {
    SEPTET_CALL_ISA(mt19937_normals, args.out + begin, end - begin);
  });
  if (rest != 0) {
    SEPTET_CALL_ISA(mt19937_normals, last, kMt19937Block);
    std::memcpy(args.out + args.numel - kMt19937Block, last, sizeof(last));
  }
  save_engine(engine, args.state);
}

}  // namespace septet
