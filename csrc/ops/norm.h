// Group normalisation with activation: arguments, checked and flattened.
#pragma once

#include <vector>

#include "functors/norm.h"
#include "launch/isa.h"
#include "ops/checks.h"

namespace septet {

struct NormTensors {
  TensorView input, rest, weight, bias, scale_shift, mask, out;
  int64_t groups = 1;
  double eps = 0;
  int64_t activation = kIdentity;
};

struct NormArgs {
  const void* input = nullptr;
  const void* rest = nullptr;         // [N, C - input_channels, ...], further channels
  const void* weight = nullptr;       // [C]
  const void* bias = nullptr;         // [C]
  const void* scale_shift = nullptr;  // [N or 1, 2 C]: C scales, C shifts
  int64_t scale_shift_stride = 0;     // from sample to sample
  const void* mask = nullptr;         // [N, spatial]
  void* out = nullptr;
  int64_t samples = 0;
  int64_t input_channels = 0;
  int64_t groups = 1;
  int64_t group_channels = 1;
  double eps = 0;
  int activation = kIdentity;
  Layout layout;
};

inline constexpr const char* kGroupNormSchema =
    "group_norm_act(Tensor input, Tensor? rest, int num_groups, Tensor? weight, Tensor? bias, "
    "float eps, "
    "int activation, Tensor? scale_shift, Tensor? mask, Tensor(a!) out) -> ()";

inline void require_per_channel(const char* op, const char* name, const TensorView& view,
                                const TensorView& input) {
  if (!view.present) return;
  require(view.dim == 1 && view.size(0) == input.size(1) && is_contiguous(view), op, name,
          " must hold one value for each of ", input.size(1), " channels, got ", shape_text(view));
  require_dtype(op, name, view, input.dtype);
  require_device(op, name, view, input.device);
}

// `whole` has all channels.
inline void plan_scale_shift(const char* op, const TensorView& view, const TensorView& whole,
                             NormArgs& args) {
  if (!view.present) return;
  const int64_t samples = whole.size(0), width = 2 * whole.size(1);
  require(view.dim == 2 && (view.size(0) == samples || view.size(0) == 1) &&
              view.size(1) == width && is_contiguous(view),
          op, "scale_shift must be contiguous [", samples, " or 1, ", width, "], got ",
          shape_text(view));
  require_dtype(op, "scale_shift", view, whole.dtype);
  require_device(op, "scale_shift", view, whole.device);
  args.scale_shift = view.data;
  args.scale_shift_stride = view.size(0) == 1 ? 0 : width;
}

// Channels behind those of `input`, as if the two had been concatenated; on the CPU alone.
inline void require_rest(const char* op, const NormTensors& t) {
  bool fits = t.out.dim == 4;
  for (const TensorView* view : {&t.input, &t.rest, &t.out}) {
    fits = fits && view->dim == 4 && is_channels_last(*view);
  }
  for (int i = 0; fits && i < 4; ++i) {
    fits = i == 1 ? t.input.size(1) + t.rest.size(1) == t.out.size(1)
                  : t.input.size(i) == t.out.size(i) && t.rest.size(i) == t.out.size(i);
  }
  require(fits, op,
          "rest must be channels_last [N, C, H, W] as input is, and out as both together, ", "got ",
          shape_text(t.rest), ", ", shape_text(t.input), " and ", shape_text(t.out));
  for (const TensorView* view : {&t.input, &t.rest, &t.out}) {
    require_dtype(op, "rest", *view, t.input.dtype);
    require_device(op, "rest", *view, -1);
  }
}

// Checks everything; throws std::invalid_argument.
inline NormArgs plan_norm(const NormTensors& t) {
  const char* op = "group_norm_act";
  require_floating(op, "input", t.input);
  require(t.input.dim >= 2, op, "input must be [N, C, ...], got ", shape_text(t.input));
  if (t.rest.present) require_rest(op, t);
  const TensorView& whole = t.rest.present ? t.out : t.input;
  NormArgs args;
  args.layout = require_layout(op, "input", whole);
  if (t.rest.present) args.layout.channels_last = true;
  const int64_t channels = whole.size(1);
  require(t.groups > 0 && channels % t.groups == 0, op, "num_groups must divide ", channels,
          " channels, got ", t.groups);
  require(t.eps >= 0, op, "eps must not be negative, got ", t.eps);
  require(t.activation >= kIdentity && t.activation <= kMish, op, "activation ", t.activation,
          " is unknown");
  require_like(op, "out", t.out, whole, args.layout);
  require_per_channel(op, "weight", t.weight, whole);
  require_per_channel(op, "bias", t.bias, whole);
  plan_scale_shift(op, t.scale_shift, whole, args);
  if (t.mask.present) require_mask(op, t.mask, "input", whole);
  args.input = t.input.data;
  args.rest = t.rest.data;
  args.weight = t.weight.data;
  args.bias = t.bias.data;
  args.mask = t.mask.data;
  args.out = t.out.data;
  args.samples = t.input.size(0);
  args.input_channels = t.input.size(1);
  args.groups = t.groups;
  args.group_channels = channels / t.groups;
  args.eps = t.eps;
  args.activation = static_cast<int>(t.activation);
  return args;
}

// The contiguous layout has one kind of task, which measures and then applies one group of a
// sample. In channels_last a task is a block of pixels of a sample with all their channels, read
// and written in the order of memory: first every block is measured, then every block is finished.
// How pixels make blocks depends on the shape alone, and so do the sums.
inline int64_t norm_block_pixels(const NormArgs& args) {
  constexpr int64_t kElements = 16384, kFewest = 16, kMost = 256;
  const int64_t pixels = kElements / args.layout.channels;
  return pixels < kFewest ? kFewest : pixels < kMost ? pixels : kMost;
}

inline int64_t norm_blocks(const NormArgs& args) {
  const int64_t pixels = norm_block_pixels(args);
  return (args.layout.spatial + pixels - 1) / pixels;
}

inline int64_t norm_tasks(const NormArgs& args) {
  return args.samples * (args.layout.channels_last ? norm_blocks(args) : args.groups);
}

// Of one group in one block, about `about`.
struct BlockSums {
  double about, sum, squares;
};

// Runs tasks [begin, end).
using NormRange = void (*)(const NormArgs& args, BlockSums* sums, int64_t begin, int64_t end);

struct NormKernels {
  NormRange measure;  // only for channels_last; writes `sums` [tasks, groups]
  NormRange apply;    // reads them
};

// Calls split(range) for every kind of task: it is to call range(begin, end) so that these cover
// the tasks, and to return when that is done.
template <class Split>
void normalise(const NormArgs& args, const NormKernels& kernels, const Split& split) {
  if (args.layout.numel == 0) return;
  std::vector<BlockSums> sums;
  const auto run = [&](NormRange range) {
    split([&](int64_t begin, int64_t end) { range(args, sums.data(), begin, end); });
  };
  if (args.layout.channels_last) {
    sums.resize(static_cast<size_t>(norm_tasks(args) * args.groups));
    run(kernels.measure);
  }
  run(kernels.apply);
}

}  // namespace septet

SEPTET_DECLARE_PER_ISA(NormKernels norm_kernels(Dtype dtype))
