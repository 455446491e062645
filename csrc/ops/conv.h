// Convolution of images with packed weights: arguments, checked and flattened, and how the work is
// divided.
//
// Every algorithm is a product of matrices between two rearrangements. The rows of the product are
// pixels of the result (direct: a row holds all inputs of a pixel) or tiles of them (Winograd: one
// product per point). A block is a run of rows that is computed at a time. All algorithms read the
// same packed weights; what Winograd's make of them is larger, and does not leave the cache.
#pragma once

#include <vector>

#include "functors/host_device.h"
#include "launch/isa.h"
#include "ops/checks.h"

namespace septet {

// Of a Winograd algorithm: the outputs of a tile in each direction.
enum ConvAlgorithm : int { kDirect = 0, kWinograd2 = 2, kWinograd4 = 4 };

// Packed weights lie as [K / 16][taps and channels][16], where K are the output channels; every
// instruction set reads them. A group is 16 channels or 16 elements of depth.
inline constexpr int64_t kGroup = 16;

HOST_DEVICE int64_t groups_of(int64_t count) {
  return (count + kGroup - 1) / kGroup;
}

struct ConvTensors {
  TensorView input, rest, weight, bias, shift, residual, out;
  int64_t algorithm = kDirect, upscale = 1;
  std::vector<int64_t> kernel_size, stride, padding, dilation;
};

struct ConvAxis {
  int64_t in = 0, out = 0;  // pixels, before upscaling
  int64_t kernel = 1, stride = 1, padding = 0, dilation = 1;
};

struct ConvArgs {
  const float* input = nullptr;   // [N, H, W, input_channels]
  const float* rest = nullptr;    // [N, H, W, C - input_channels], further channels
  const float* weight = nullptr;  // packed
  const float* points = nullptr;  // all of the weights as the products read them, if that is kept:
                                  // [K / 16][planes][depth][16]
  const float* bias = nullptr;    // [K]
  const float* shift = nullptr;   // [N or 1, K]
  const float* residual = nullptr;  // as out, or of half its height and width
  float* out = nullptr;             // [N, H', W', K]
  int64_t shift_stride = 0;
  int64_t samples = 0, input_channels = 0, channels = 0, out_channels = 0;
  ConvAxis y, x;
  int upscale = 1;           // every pixel of the input counts so often in both directions
  int residual_upscale = 1;  // the same of the residual
  int algorithm = kDirect;
  int64_t tile = 1;  // outputs of a row of the product, in each direction
  int64_t tiles_y = 0, tiles_x = 0;
  int64_t planes = 1;  // products
  int64_t depth = 0;   // of a product, in groups
  int64_t rows = 0;    // of a product
};

inline constexpr const char* kConvSchema =
    "conv2d(Tensor input, Tensor? rest, Tensor weight, int[] kernel_size, int algorithm, "
    "Tensor? bias, Tensor? shift, Tensor? residual, int[] stride, int[] padding, int[] dilation, "
    "int upscale, Tensor(a!) out) -> ()";
inline constexpr const char* kConvPackSchema = "conv2d_pack(Tensor weight, Tensor(a!) out) -> ()";

inline void require_algorithm(const char* op, int64_t algorithm, int64_t height, int64_t width) {
  require(algorithm == kDirect || algorithm == kWinograd2 || algorithm == kWinograd4, op,
          "algorithm ", algorithm, " is unknown");
  require(algorithm == kDirect || (height == 3 && width == 3), op,
          "Winograd's algorithm needs a kernel of 3x3, got ", height, "x", width);
}

inline int64_t conv_planes(int64_t algorithm) {
  return algorithm == kDirect ? 1 : (algorithm + 2) * (algorithm + 2);
}

// Taps and channels, in groups.
inline int64_t conv_packed_depth(int64_t channels, int64_t height, int64_t width) {
  return groups_of(height * width * channels);
}

// -- packing -------------------------------------------------------------------------------------

inline bool is_packed(const TensorView& weight, int64_t out_channels, int64_t depth) {
  return weight.dim == 3 && is_contiguous(weight) && weight.size(0) == groups_of(out_channels) &&
         weight.size(1) == depth * kGroup && weight.size(2) == kGroup;
}

struct ConvPackArgs {
  const float* weight = nullptr;  // [K, C, height, width]
  float* out = nullptr;
  int64_t out_channels = 0, channels = 0, height = 1, width = 1;
  int64_t depth = 0;
};

inline ConvPackArgs plan_conv_pack(const TensorView& weight, const TensorView& out) {
  const char* op = "conv2d_pack";
  require(weight.dim == 4 && weight.numel() > 0 && is_contiguous(weight), op,
          "weight must be contiguous [K, C, height, width], got ", shape_text(weight));
  require_dtype(op, "weight", weight, Dtype::float32);
  require_device(op, "weight", weight, -1);
  ConvPackArgs args;
  args.out_channels = weight.size(0);
  args.channels = weight.size(1);
  args.height = weight.size(2);
  args.width = weight.size(3);
  args.depth = conv_packed_depth(args.channels, args.height, args.width);
  require(is_packed(out, args.out_channels, args.depth), op, "out must be contiguous [",
          groups_of(args.out_channels), ", ", args.depth * kGroup, ", ", kGroup, "], got ",
          shape_text(out));
  require_dtype(op, "out", out, Dtype::float32);
  require_device(op, "out", out, -1);
  args.weight = static_cast<const float*>(weight.data);
  args.out = static_cast<float*>(out.data);
  return args;
}

// -- checks --------------------------------------------------------------------------------------

inline ConvAxis plan_axis(const char* op, const ConvTensors& t, int axis) {
  const char* name = axis == 0 ? "height" : "width";
  ConvAxis plan;
  plan.in = t.input.size(2 + axis);
  plan.kernel = t.kernel_size[axis];
  plan.stride = t.stride[axis];
  plan.padding = t.padding[axis];
  plan.dilation = t.dilation[axis];
  require(plan.kernel > 0 && plan.stride > 0 && plan.padding >= 0 && plan.dilation > 0, op,
          "kernel_size, stride and dilation must be positive and padding not negative");
  const int64_t reach = plan.dilation * (plan.kernel - 1) + 1;
  const int64_t room = plan.in * t.upscale + 2 * plan.padding - reach;
  require(room >= 0, op, "input must have a ", name, " of at least ", reach,
          " with its padding, got ", plan.in * t.upscale + 2 * plan.padding);
  plan.out = room / plan.stride + 1;
  return plan;
}

inline void plan_algorithm(const char* op, const ConvTensors& t, ConvArgs& args) {
  require_algorithm(op, t.algorithm, args.y.kernel, args.x.kernel);
  const bool plain =
      args.y.stride == 1 && args.x.stride == 1 && args.y.dilation == 1 && args.x.dilation == 1;
  require(t.algorithm == kDirect || plain, op,
          "Winograd's algorithm needs stride 1 and dilation 1");
  args.algorithm = static_cast<int>(t.algorithm);
  args.tile = t.algorithm == kDirect ? 1 : t.algorithm;
  args.tiles_y = (args.y.out + args.tile - 1) / args.tile;
  args.tiles_x = (args.x.out + args.tile - 1) / args.tile;
  args.rows = args.samples * args.tiles_y * args.tiles_x;
  args.planes = conv_planes(t.algorithm);
  args.depth = t.algorithm == kDirect
                   ? conv_packed_depth(args.channels, args.y.kernel, args.x.kernel)
                   : groups_of(args.channels);
}

// Channels behind those of `input`, as if the two had been concatenated.
inline void plan_conv_rest(const char* op, const ConvTensors& t, ConvArgs& args) {
  args.input_channels = args.channels = t.input.size(1);
  if (!t.rest.present) return;
  bool fits = t.rest.dim == 4 && is_channels_last(t.rest);
  for (int i = 0; fits && i < 4; ++i) fits = i == 1 || t.rest.size(i) == t.input.size(i);
  require(fits, op, "rest must match input in shape but for the channels, and in layout, got ",
          shape_text(t.rest), " and ", shape_text(t.input));
  require(t.algorithm == kDirect && t.input.size(1) % kGroup == 0 && t.rest.size(1) % kGroup == 0,
          op, "rest needs the direct algorithm and multiples of ", kGroup, " channels, got ",
          t.input.size(1), " and ", t.rest.size(1));
  args.channels += t.rest.size(1);
  args.rest = static_cast<const float*>(t.rest.data);
}

inline const float* plan_conv_shift(const char* op, const TensorView& shift, ConvArgs& args) {
  if (!shift.present) return nullptr;
  require(shift.dim == 2 && (shift.size(0) == args.samples || shift.size(0) == 1) &&
              shift.size(1) == args.out_channels && is_contiguous(shift),
          op, "shift must be contiguous [", args.samples, " or 1, ", args.out_channels, "], got ",
          shape_text(shift));
  args.shift_stride = shift.size(0) == 1 ? 0 : args.out_channels;
  return static_cast<const float*>(shift.data);
}

// Of the shape of the result, or half as high and wide.
inline void plan_conv_residual(const char* op, const ConvTensors& t, ConvArgs& args) {
  if (!t.residual.present) return;
  const bool dense = t.residual.dim == 4 && is_channels_last(t.residual);
  const auto matches = [&](int64_t scale) {
    for (int i = 0; i < 4; ++i) {
      if (t.residual.size(i) * (i < 2 ? 1 : scale) != t.out.size(i)) return false;
    }
    return true;
  };
  args.residual_upscale = dense && matches(2) ? 2 : 1;
  require(dense && matches(args.residual_upscale), op,
          "residual must match out in shape and layout, got ", shape_text(t.residual), " and ",
          shape_text(t.out));
  args.residual = static_cast<const float*>(t.residual.data);
}

// Checks everything; throws std::invalid_argument.
inline ConvArgs plan_conv(const ConvTensors& t) {
  const char* op = "conv2d";
  require(t.input.dim == 4 && is_channels_last(t.input), op,
          "input must be channels_last [N, C, H, W], got ", shape_text(t.input));
  require(t.out.dim == 4 && is_channels_last(t.out), op,
          "out must be channels_last [N, K, H, W], got ", shape_text(t.out));
  for (const auto* pair : {&t.kernel_size, &t.stride, &t.padding, &t.dilation}) {
    require(pair->size() == 2, op, "kernel_size, stride, padding and dilation must be pairs");
  }
  require(t.upscale == 1 || t.upscale == 2, op, "upscale must be 1 or 2, got ", t.upscale);
  const TensorView* const views[] = {&t.input, &t.rest,     &t.weight, &t.bias,
                                     &t.shift, &t.residual, &t.out};
  const char* const names[] = {"input", "rest", "weight", "bias", "shift", "residual", "out"};
  for (int i = 0; i < 7; ++i) {
    if (!views[i]->present) continue;
    require_dtype(op, names[i], *views[i], Dtype::float32);
    require_device(op, names[i], *views[i], -1);
  }
  ConvArgs args;
  args.samples = t.input.size(0);
  plan_conv_rest(op, t, args);
  args.out_channels = t.out.size(1);
  args.upscale = static_cast<int>(t.upscale);
  args.y = plan_axis(op, t, 0);
  args.x = plan_axis(op, t, 1);
  plan_algorithm(op, t, args);
  require(
      t.out.size(0) == args.samples && t.out.size(2) == args.y.out && t.out.size(3) == args.x.out,
      op, "out must be [", args.samples, ", K, ", args.y.out, ", ", args.x.out, "], got ",
      shape_text(t.out));
  const int64_t depth = conv_packed_depth(args.channels, args.y.kernel, args.x.kernel);
  require(is_packed(t.weight, args.out_channels, depth), op, "weight must be packed for ",
          args.out_channels, " and ", args.channels, " channels, got ", shape_text(t.weight));
  require(!t.bias.present ||
              (t.bias.dim == 1 && t.bias.size(0) == args.out_channels && is_contiguous(t.bias)),
          op, "bias must hold one value for each of ", args.out_channels, " channels, got ",
          shape_text(t.bias));
  args.shift = plan_conv_shift(op, t.shift, args);
  plan_conv_residual(op, t, args);
  args.input = static_cast<const float*>(t.input.data);
  args.weight = static_cast<const float*>(t.weight.data);
  args.bias = static_cast<const float*>(t.bias.data);
  args.out = static_cast<float*>(t.out.data);
  return args;
}

// -- work ----------------------------------------------------------------------------------------

// `count` things in as few equal parts as keep each at most `most`; earlier parts are longer by one
// where they do not divide.
struct EqualParts {
  int64_t count, parts;

  HOST_DEVICE EqualParts(int64_t count_, int64_t most)
      : count(count_), parts((count_ + most - 1) / most) {}
  // So many parts, however long.
  static HOST_DEVICE EqualParts of(int64_t count, int64_t parts) {
    EqualParts result(count, 1);
    result.parts = parts;
    return result;
  }
  HOST_DEVICE int64_t begin(int64_t part) const {
    const int64_t length = count / parts, longer = count % parts;
    return part * length + (part < longer ? part : longer);
  }
};

// A run of rows whose inputs are rearranged and then multiplied.
struct ConvBlock {
  int64_t first = 0, rows = 0;
  float* values = nullptr;  // the rearranged inputs, [planes] of conv_plane() floats
};

// One cache line more than needed, so that planes do not meet in the same sets of the cache.
HOST_DEVICE int64_t conv_plane(const ConvArgs& args, int64_t rows) {
  return args.depth * kGroup * rows + kGroup;
}
// Products of a group of output channels.
HOST_DEVICE int64_t conv_products(const ConvArgs& args, int64_t rows) {
  return args.planes * (rows * kGroup + kGroup);
}

struct ConvKernels {
  int64_t most_rows;  // that are multiplied at a time; inputs are rearranged in parts of them
  // Rearranges the inputs of one such part of a block.
  void (*rearrange)(const ConvArgs& args, const ConvBlock& block, int64_t part);
  // Computes the groups of output channels [begin, end) of a block. `products` has room for
  // conv_products() floats for each, and for weights_floats.
  void (*multiply)(const ConvArgs& args, const ConvBlock& block, int64_t begin, int64_t end,
                   float* products);
  int64_t weights_floats;
  // Writes the groups of output channels [begin, end) of ConvArgs::points.
  void (*transform)(const ConvArgs& args, int64_t begin, int64_t end, float* points);
};

}  // namespace septet

SEPTET_DECLARE_PER_ISA(ConvKernels conv_kernels(int algorithm))
SEPTET_DECLARE_PER_ISA(void conv_pack(const ConvPackArgs& args, int64_t begin, int64_t end))
