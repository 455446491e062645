// Philox normals in bulk on the CPU.
#pragma once

#include "functors/philox.h"
#include "launch/lanes.h"
#include "ops/noise.h"

namespace septet {
SEPTET_ISA_BEGIN

using Words = Lanes<uint32_t, kLanes>;
using Floats = Lanes<float, kLanes>;

inline uint64_t philox_seed(const PhiloxArgs& args, int64_t stream) {
  return static_cast<uint64_t>(args.pairs[2 * stream]);
}

inline uint64_t philox_offset(const PhiloxArgs& args, int64_t stream, int64_t row) {
  return static_cast<uint64_t>(args.pairs[2 * stream + 1] + row * args.increment);
}

// Blocks `index` to `index` + kLanes - 1 of the per-sample layout.
inline PhiloxBlock<Words> philox_blocks(uint64_t index, uint32_t key0, uint32_t key1) {
  using Spread = SpreadWords<kLanes / 2>;
  typename Spread::native counter;
  for (int i = 0; i < kLanes / 2; ++i) counter[i] = index + static_cast<uint64_t>(2 * i);
  const auto blocks = [&](typename Spread::native from) {
    return philox4x32<Spread>({from, from >> 32, Spread(0u), Spread(0u)}, key0, key1);
  };
  const PhiloxBlock<Spread> even = blocks(counter), odd = blocks(counter + 1);
  return {interleave(even.x, odd.x), interleave(even.y, odd.y), interleave(even.z, odd.z),
          interleave(even.w, odd.w)};
}

inline void store_normals(const PhiloxBlock<Words>& words, float* out) {
  Floats normals[4];
  box_muller<PortableMath>(words.x, words.y, normals[0], normals[1]);
  box_muller<PortableMath>(words.z, words.w, normals[2], normals[3]);
  store_interleaved(normals, out);
}

// Per-sample layout, logical order: elements [begin, end) of one stream, whole blocks at a time.
inline void normal_blocks(uint64_t seed, uint64_t offset, int64_t begin, int64_t end, float* out) {
  // Words first, then normals, several batches each: the processor overlaps the steps of short
  // loops, which wait for one another within a batch.
  constexpr int kBatch = 4 * kLanes, kBatches = 4;
  const auto key0 = static_cast<uint32_t>(seed);
  const auto key1 = static_cast<uint32_t>(seed >> 32);
  PhiloxBlock<Words> words[kBatches];
  for (int64_t first = begin / 4 * 4; first < end; first += kBatches * kBatch) {
    const int64_t left = (end - first + kBatch - 1) / kBatch;
    const int batches = left < kBatches ? static_cast<int>(left) : kBatches;
    const uint64_t index = offset / 4 + static_cast<uint64_t>(first / 4);
    for (int i = 0; i < batches; ++i) {
      words[i] = philox_blocks(index + static_cast<uint64_t>(i * kLanes), key0, key1);
    }
    for (int i = 0; i < batches; ++i) {
      const int64_t start = first + i * kBatch;
      if (start >= begin && start + kBatch <= end) {
        store_normals(words[i], out + (start - begin));
        continue;
      }
      float batch[kBatch];
      store_normals(words[i], batch);
      const int64_t from = start < begin ? begin : start;
      const int64_t to = start + kBatch < end ? start + kBatch : end;
      for (int64_t j = from; j < to; ++j) out[j - begin] = batch[j - start];
    }
  }
}

// Any layout: every element looks up its own place.
inline void normal_scattered(const PhiloxArgs& args, int64_t row, int64_t begin, int64_t end,
                             float* out) {
  for (int64_t first = begin; first < end; first += kLanes) {
    uint32_t words[4][kLanes] = {}, keys[2][kLanes] = {}, component[kLanes] = {};
    const int64_t count = end - first < kLanes ? end - first : kLanes;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t element = logical_index(args.layout, first + i);
      const int64_t stream = element / args.per_stream;
      const uint64_t seed = philox_seed(args, stream);
      const PhiloxPlace place =
          philox_place(static_cast<uint64_t>(element % args.per_stream),
                       philox_offset(args, stream, row), static_cast<uint64_t>(args.threads));
      words[0][i] = static_cast<uint32_t>(place.index);
      words[1][i] = static_cast<uint32_t>(place.index >> 32);
      words[2][i] = static_cast<uint32_t>(place.thread);
      words[3][i] = static_cast<uint32_t>(place.thread >> 32);
      keys[0][i] = static_cast<uint32_t>(seed);
      keys[1][i] = static_cast<uint32_t>(seed >> 32);
      component[i] = place.component;
    }
    const PhiloxBlock<Words> block =
        philox4x32<Words>({Words::load(words[0]), Words::load(words[1]), Words::load(words[2]),
                           Words::load(words[3])},
                          Words::load(keys[0]), Words::load(keys[1]));
    const Words which = Words::load(component);
    const auto second_pair = (which & Words(2u)) != Words(0u);
    Floats sine, cosine;
    box_muller<PortableMath>(select(second_pair, block.z, block.x),
                             select(second_pair, block.w, block.y), sine, cosine);
    float values[kLanes];
    select((which & Words(1u)) != Words(0u), cosine, sine).store(values);
    for (int64_t i = 0; i < count; ++i) out[first - begin + i] = values[i];
  }
}

// Normals for the elements at [begin, end) in memory order.
inline void normal_fill(const PhiloxArgs& args, int64_t row, int64_t begin, int64_t end,
                        float* out) {
  if (args.threads != 0 || args.layout.channels_last) {
    normal_scattered(args, row, begin, end, out);
    return;
  }
  for (int64_t position = begin; position < end;) {
    const int64_t stream = position / args.per_stream;
    const int64_t origin = stream * args.per_stream;
    const int64_t stop = end < origin + args.per_stream ? end : origin + args.per_stream;
    normal_blocks(philox_seed(args, stream), philox_offset(args, stream, row), position - origin,
                  stop - origin, out + (position - begin));
    position = stop;
  }
}

SEPTET_ISA_END
}  // namespace septet
