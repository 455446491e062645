// Philox noise: what an op needs to know to draw it, and the checks on it.
#pragma once

#include "functors/host_device.h"
#include "launch/isa.h"
#include "ops/checks.h"

namespace septet {

// Streams that a CUDA kernel takes by value, so that an eager step needs no copy to the device.
inline constexpr int64_t kInlineStreams = 8;

struct PhiloxArgs {
  const int64_t* pairs = nullptr;  // [streams, 2]: seed, offset
  int64_t inline_pairs[2 * kInlineStreams] = {};
  int64_t streams = 0;     // 0: no Philox noise
  int64_t per_stream = 1;  // elements each stream fills
  int64_t threads = 0;     // of torch's CUDA layout, 0 for the per-sample layout
  int64_t increment = 0;   // the offset used is offset + row * increment
  Layout layout;
};

// The index that torch's contiguous order gives the element at a position in memory.
HOST_DEVICE int64_t logical_index(const Layout& layout, int64_t position) {
  if (!layout.channels_last) return position;
  const int64_t sample = position / layout.per_sample;
  const int64_t rest = position % layout.per_sample;
  return sample * layout.per_sample + rest % layout.channels * layout.spatial +
         rest / layout.channels;
}

inline PhiloxArgs plan_philox(const char* op, const TensorView& philox, const TensorView& sample,
                              const Layout& layout, int64_t increment, int64_t threads) {
  PhiloxArgs args;
  if (!philox.present) return args;
  require_dtype(op, "philox", philox, Dtype::int64);
  const int64_t batch = sample.dim > 0 ? sample.size(0) : 1;
  require(philox.dim == 2 && philox.size(1) == 2 && is_contiguous(philox) &&
              (philox.size(0) == 1 || philox.size(0) == batch),
          op, "philox must be contiguous [1, 2] or [", batch, ", 2], got ", shape_text(philox));
  require(philox.device < 0 || philox.device == sample.device, op,
          "philox must be on the CPU or on ", device_name(sample.device), ", got ",
          device_name(philox.device));
  require(increment >= 0 && increment % 4 == 0, op,
          "philox_increment must be a non-negative multiple of 4, got ", increment);
  require(threads >= 0 && threads % 256 == 0, op,
          "philox_threads must be a non-negative multiple of 256, got ", threads);
  require(threads == 0 || sample.dtype != Dtype::float64, op,
          "torch's CUDA layout of Philox noise does not cover float64; pass noise instead");
  args.pairs = static_cast<const int64_t*>(philox.data);
  args.streams = philox.size(0);
  args.per_stream = layout.numel / (args.streams > 0 ? args.streams : 1);
  args.threads = threads;
  args.increment = increment;
  args.layout = layout;
  if (philox.device < 0) {
    for (int64_t i = 0; i < args.streams; ++i) {
      require(args.pairs[2 * i + 1] >= 0 && args.pairs[2 * i + 1] % 4 == 0, op,
              "philox offsets must be non-negative multiples of 4, got ", args.pairs[2 * i + 1]);
    }
    if (sample.device >= 0) {
      require(args.streams <= kInlineStreams, op, "philox on the CPU may hold at most ",
              kInlineStreams, " streams for a CUDA sample, got ", args.streams,
              "; move it to the device");
      for (int64_t i = 0; i < 2 * args.streams; ++i) args.inline_pairs[i] = args.pairs[i];
      args.pairs = nullptr;
    }
  }
  return args;
}

inline constexpr const char* kNormalSchema =
    "philox_normal(Tensor(a!) out, Tensor philox, int increment, int threads) -> ()";

// Checks the arguments of the op of its own; throws std::invalid_argument.
inline PhiloxArgs plan_normal(const TensorView& out, const TensorView& philox, int64_t increment,
                              int64_t threads) {
  const char* op = "philox_normal";
  require_floating(op, "out", out);
  const Layout layout = require_layout(op, "out", out);
  return plan_philox(op, philox, out, layout, increment, threads);
}

// Fills out[begin, end) of a dense tensor.
using NormalRange = void (*)(const PhiloxArgs& args, void* out, int64_t begin, int64_t end);

}  // namespace septet

SEPTET_DECLARE_PER_ISA(NormalRange normal_range(Dtype dtype))
