// A layer of DiffWave: arguments, checked and flattened.
#pragma once

#include <initializer_list>
#include <vector>

#include "functors/wavenet.h"
#include "launch/isa.h"
#include "ops/checks.h"

namespace septet {

struct WaveNetTensors {
  TensorView input, step, mel, weight, bias, residual_weight, residual_bias, skip_weight, skip_bias,
      mask, out, skips;
  int64_t dilation = 1;
  bool accumulate = false;
};

struct WaveNetArgs {
  const void* input = nullptr;            // [B, N, C]
  const void* step = nullptr;             // [B or 1, C]
  int64_t step_stride = 0;                // from sample to sample
  const void* mel = nullptr;              // [B, N, 2 C]
  const void* weight = nullptr;           // [2 C, C, 3]
  const void* bias = nullptr;             // [2 C]
  const void* residual_weight = nullptr;  // [C, C]
  const void* residual_bias = nullptr;    // [C]
  const void* skip_weight = nullptr;      // [S, C]
  const void* skip_bias = nullptr;        // [S]
  const void* mask = nullptr;             // [B, N]
  void* out = nullptr;                    // [B, N, C]
  void* skips = nullptr;                  // [B, N, S]
  int64_t samples = 0, positions = 0, channels = 0, skip_channels = 0, dilation = 1;
  bool accumulate = false;
};

inline constexpr const char* kWaveNetSchema =
    "wavenet_layer(Tensor input, Tensor step, Tensor mel, Tensor weight, Tensor bias, "
    "Tensor residual_weight, Tensor residual_bias, Tensor skip_weight, Tensor skip_bias, "
    "Tensor? mask, int dilation, bool accumulate, Tensor(a!)? out, Tensor(b!) skips) -> ()";

// A contiguous tensor of a shape, beside `input`.
inline void require_shape(const char* op, const char* name, const TensorView& view,
                          const TensorView& input, std::initializer_list<int64_t> shape) {
  const TensorView wanted{nullptr, view.dtype, static_cast<int64_t>(shape.size()), shape.begin()};
  bool fits = view.dim == wanted.dim;
  for (int64_t i = 0; fits && i < view.dim; ++i) fits = view.size(i) == wanted.size(i);
  require(fits && is_contiguous(view), op, name, " must be contiguous ", shape_text(wanted),
          ", got ", shape_text(view));
  require_dtype(op, name, view, input.dtype);
  require_device(op, name, view, input.device);
}

// Checks everything; throws std::invalid_argument.
inline WaveNetArgs plan_wavenet(const WaveNetTensors& t) {
  const char* op = "wavenet_layer";
  require(is_floating(t.input.dtype) && t.input.dtype != Dtype::float64, op,
          "input must be float32, float16 or bfloat16, got ", dtype_name(t.input.dtype));
  require(t.input.dim == 3 && t.input.size(2) > 0, op, "input must be [B, N, C], got ",
          shape_text(t.input));
  require(t.dilation >= 1, op, "dilation must be at least 1, got ", t.dilation);
  const int64_t samples = t.input.size(0), positions = t.input.size(1), width = t.input.size(2);
  require(t.skip_weight.dim >= 1 && t.skip_weight.size(0) > 0, op,
          "skip_weight must be [S, C, 1], got ", shape_text(t.skip_weight));
  const int64_t skip = t.skip_weight.size(0);
  const bool shared = t.step.dim == 2 && t.step.size(0) == 1;
  require_shape(op, "input", t.input, t.input, {samples, positions, width});
  require_shape(op, "step", t.step, t.input, {shared ? 1 : samples, width});
  require_shape(op, "mel", t.mel, t.input, {samples, positions, 2 * width});
  require_shape(op, "weight", t.weight, t.input, {2 * width, width, kTaps});
  require_shape(op, "bias", t.bias, t.input, {2 * width});
  require_shape(op, "residual_weight", t.residual_weight, t.input, {width, width, 1});
  require_shape(op, "residual_bias", t.residual_bias, t.input, {width});
  require_shape(op, "skip_weight", t.skip_weight, t.input, {skip, width, 1});
  require_shape(op, "skip_bias", t.skip_bias, t.input, {skip});
  if (t.mask.present) require_shape(op, "mask", t.mask, t.input, {samples, positions});
  if (t.out.present) require_shape(op, "out", t.out, t.input, {samples, positions, width});
  require_shape(op, "skips", t.skips, t.input, {samples, positions, skip});
  // A position needs those around it, so the input must outlast the output.
  require(!t.out.present || t.out.data != t.input.data || t.input.numel() == 0, op,
          "out must not be input");
  WaveNetArgs args;
  args.input = t.input.data;
  args.step = t.step.data;
  args.step_stride = shared ? 0 : width;
  args.mel = t.mel.data;
  args.weight = t.weight.data;
  args.bias = t.bias.data;
  args.residual_weight = t.residual_weight.data;
  args.residual_bias = t.residual_bias.data;
  args.skip_weight = t.skip_weight.data;
  args.skip_bias = t.skip_bias.data;
  args.mask = t.mask.data;
  args.out = t.out.data;
  args.skips = t.skips.data;
  args.samples = samples;
  args.positions = positions;
  args.channels = width;
  args.skip_channels = skip;
  args.dilation = t.dilation;
  args.accumulate = t.accumulate;
  return args;
}

// The CPU kernel works on groups of four positions that lie a dilation apart. Group g begins at
// g / dilation * 4 dilation + g % dilation, so that neighbouring groups are neighbouring positions.
inline int64_t wavenet_groups(const WaveNetArgs& args) {
  const int64_t span = WinogradRun::kOutputs * args.dilation;
  const int64_t whole = args.positions / span, left = args.positions % span;
  return whole * args.dilation + (left < args.dilation ? left : args.dilation);
}

// A task is a run of groups of one sample, as many as stay in the second-level cache beside what
// becomes of them and a part of the weights.
inline constexpr int64_t kMostGroups = 48;
inline int64_t wavenet_groups_per_task(const WaveNetArgs& args) {
  constexpr int64_t kChannels = 128, kFewest = 12;
  const int64_t groups = kMostGroups * kChannels / args.channels / kFewest * kFewest;
  return groups < kFewest ? kFewest : groups > kMostGroups ? kMostGroups : groups;
}

inline int64_t wavenet_tasks(const WaveNetArgs& args) {
  const int64_t per_task = wavenet_groups_per_task(args);
  return args.samples * ((wavenet_groups(args) + per_task - 1) / per_task);
}

struct WaveNetKernels {
  // Floats that the packed weights take, and the number of panels that they consist of.
  int64_t (*packed_size)(const WaveNetArgs& args);
  int64_t (*panels)(const WaveNetArgs& args);
  // Packs panels [begin, end).
  void (*pack)(const WaveNetArgs& args, float* packed, int64_t begin, int64_t end);
  // Runs tasks [begin, end).
  void (*run)(const WaveNetArgs& args, const float* packed, int64_t begin, int64_t end);
};

// Calls split(count, range) for the packing and for the layer: it is to call range(begin, end) so
// that these cover [0, count), and to return when that is done. The weights are packed in every
// call, which takes hundreds of times less than what follows, and so never disagree with the
// parameters.
template <class Split>
void run_wavenet_layer(const WaveNetArgs& args, const WaveNetKernels& kernels, const Split& split) {
  if (args.samples * args.positions == 0) return;
  constexpr int64_t kCacheLine = 64 / sizeof(float);
  std::vector<float> memory(static_cast<size_t>(kernels.packed_size(args) + kCacheLine));
  float* const packed =
      memory.data() +
      (kCacheLine - reinterpret_cast<std::uintptr_t>(memory.data()) / sizeof(float) % kCacheLine);
  split(kernels.panels(args),
        [&](int64_t begin, int64_t end) { kernels.pack(args, packed, begin, end); });
  split(wavenet_tasks(args),
        [&](int64_t begin, int64_t end) { kernels.run(args, packed, begin, end); });
}

}  // namespace septet

SEPTET_DECLARE_PER_ISA(WaveNetKernels wavenet_kernels(Dtype dtype))
