// Convolution on the CPU: what comes before and after the product of conv_product.h.
#include "functors/winograd.h"
#include "ops/conv_product.h"
#include "ops/conv_weights.h"

namespace septet {
SEPTET_ISA_BEGIN
namespace {

// Where a row of the product lies: a pixel of the result, or the first one of a tile.
struct Place {
  int64_t sample, y, x;
};

HOST_DEVICE Place place_of(const ConvArgs& args, int64_t row) {
  const int64_t tile_y = row / args.tiles_x;
  return {tile_y / args.tiles_y, tile_y % args.tiles_y * args.tile, row % args.tiles_x * args.tile};
}

// A pixel of the upscaled input, -1 where that is padding.
HOST_DEVICE int64_t pixel_at(const ConvArgs& args, int64_t sample, int64_t y, int64_t x) {
  if (y < 0 || y >= args.y.in * args.upscale || x < 0 || x >= args.x.in * args.upscale) return -1;
  if (args.upscale == 2) y >>= 1, x >>= 1;
  return (sample * args.y.in + y) * args.x.in + x;
}

// A pixel's channels from `channel` on, as far as they lie together; null for padding.
HOST_DEVICE const float* channels_at(const ConvArgs& args, int64_t pixel, int64_t channel) {
  if (pixel < 0) return nullptr;
  const int64_t behind = channel - args.input_channels;
  return behind < 0 || args.rest == nullptr
             ? args.input + pixel * args.input_channels + channel
             : args.rest + pixel * (args.channels - args.input_channels) + behind;
}

// Channels [channel, channel + 16) of a pixel, zeros beyond the last one.
HOST_DEVICE void load_group(const float* pixel, int64_t left, float* to) {
  for (int i = 0; i < kGroup; ++i) to[i] = i < left ? pixel[i] : 0.0f;
}

// A rearranged input lies as [parts of the depth][parts of the rows][groups][rows][16]. This is the
// part of the rows that is at hand.
class Part {
 public:
  Part(const ConvArgs& args, const ConvBlock& block, int64_t part)
      : depth_(args.depth, most_depth(args)),
        all_rows_(block.rows),
        first_(EqualParts(block.rows, kMostRows).begin(part)),
        rows_(EqualParts(block.rows, kMostRows).begin(part + 1) - first_),
        values_(block.values) {}

  int64_t first() const { return first_; }
  int64_t rows() const { return rows_; }

  // Calls f(begin, end, address) for every part of the depth, in groups.
  template <class F>
  void for_depths(F f) const {
    for (int64_t d = 0; d < depth_.parts; ++d) {
      const int64_t begin = depth_.begin(d), end = depth_.begin(d + 1);
      f(begin, end, values_ + (begin * all_rows_ + first_ * (end - begin)) * kGroup);
    }
  }

 private:
  const EqualParts depth_;
  const int64_t all_rows_, first_, rows_;
  float* const values_;
};

// -- direct --------------------------------------------------------------------------------------

// Copies the inputs of a run of rows, pixels of the result, tap by tap. The elements of the depth
// from `element` on go to `to`, whose rows lie side by side.
class Taps {
 public:
  Taps(const ConvArgs& args, int64_t first, int64_t rows) : args_(args), rows_(rows) {
    for (int64_t r = 0; r < rows; ++r) {
      places_[r] = place_of(args, first + r);
      places_[r].y = places_[r].y * args.y.stride - args.y.padding;
      places_[r].x = places_[r].x * args.x.stride - args.x.padding;
    }
  }

  // Whole groups that belong to one tap and to one of the inputs.
  void copy_groups(int64_t tap, int64_t channel, int64_t groups, float* to) const {
    for (int64_t r = 0; r < rows_; ++r, to += kGroup) {
      const float* const from = channels_at(args_, pixel_of(r, tap), channel);
      float* row = to;
      for (int64_t g = 0; g < groups; ++g, row += rows_ * kGroup) {
        SEPTET_UNROLL
        for (int v = 0; v < kParts; ++v) {
          const Floats value =
              from == nullptr ? Floats(0.0f) : Floats::load(from + g * kGroup + v * kLanes);
          value.store(row + v * kLanes);
        }
      }
    }
  }

  // One group that may hold parts of several taps, and end with zeros.
  void copy_mixed(int64_t element, float* to) const {
    const int64_t all = args_.y.kernel * args_.x.kernel * args_.channels;
    for (int64_t r = 0; r < rows_; ++r, to += kGroup) {
      int64_t tap = element / args_.channels, channel = element % args_.channels;
      const int64_t filled = all - element < kGroup ? all - element : kGroup;
      for (int64_t i = 0; i < filled; ++tap, channel = 0) {
        const float* const pixel = channels_at(args_, pixel_of(r, tap), 0);
        for (; channel < args_.channels && i < filled; ++channel, ++i) {
          to[i] = pixel == nullptr ? 0.0f : pixel[channel];
        }
      }
      for (int64_t i = filled; i < kGroup; ++i) to[i] = 0.0f;
    }
  }

 private:
  HOST_DEVICE int64_t pixel_of(int64_t row, int64_t tap) const {
    const Place& place = places_[row];
    return pixel_at(args_, place.sample, place.y + tap / args_.x.kernel * args_.y.dilation,
                    place.x + tap % args_.x.kernel * args_.x.dilation);
  }

  const ConvArgs& args_;
  const int64_t rows_;
  Place places_[kMostRows];
};

// A row is all inputs of a pixel of the result, tap after tap.
void rearrange_direct(const ConvArgs& args, const ConvBlock& block, int64_t index) {
  const Part part(args, block, index);
  const Taps taps(args, block.first + part.first(), part.rows());
  const int64_t tap_groups = args.channels % kGroup == 0 ? args.channels / kGroup : 0;
  part.for_depths([&](int64_t begin, int64_t end, float* to) {
    for (int64_t g = begin; g < end;) {
      int64_t count = 1;
      if (tap_groups == 0) {
        taps.copy_mixed(g * kGroup, to);
      } else {
        const int64_t tap = g / tap_groups, first = g % tap_groups;
        const int64_t in_input = args.input_channels / kGroup;
        const int64_t together = first < in_input ? in_input : tap_groups;
        count = together - first < end - g ? together - first : end - g;
        taps.copy_groups(tap, first * kGroup, count, to);
      }
      g += count;
      to += count * part.rows() * kGroup;
    }
  });
}

// What is added to a group of output channels of one pixel on the way out.
class Finish {
 public:
  Finish(const ConvArgs& args, int64_t group)
      : args_(args),
        channel_(group * kGroup),
        count_(args.out_channels - channel_ < kGroup ? args.out_channels - channel_ : kGroup) {}

  void store(const Place& place, Floats (&values)[kParts]) const {
    const int64_t pixel = (place.sample * args_.y.out + place.y) * args_.x.out + place.x;
    const int64_t at = pixel * args_.out_channels + channel_;
    const float* const residual = residual_at(place, at);
    const float* const shift = args_.shift + place.sample * args_.shift_stride + channel_;
    if (count_ == kGroup) {
      SEPTET_UNROLL
      for (int v = 0; v < kParts; ++v) {
        Floats value = values[v];
        const int64_t i = v * kLanes;
        if (args_.bias != nullptr) value = value + Floats::load(args_.bias + channel_ + i);
        if (args_.shift != nullptr) value = value + Floats::load(shift + i);
        if (residual != nullptr) value = value + Floats::load(residual + i);
        value.store(args_.out + at + i);
      }
      return;
    }
    alignas(64) float lanes[kGroup];
    SEPTET_UNROLL
    for (int v = 0; v < kParts; ++v) values[v].store(lanes + v * kLanes);
    for (int64_t i = 0; i < count_; ++i) {
      float value = lanes[i];
      if (args_.bias != nullptr) value += args_.bias[channel_ + i];
      if (args_.shift != nullptr) value += shift[i];
      if (residual != nullptr) value += residual[i];
      args_.out[at + i] = value;
    }
  }

 private:
  HOST_DEVICE const float* residual_at(const Place& place, int64_t at) const {
    if (args_.residual == nullptr || args_.residual_upscale == 1) {
      return args_.residual == nullptr ? nullptr : args_.residual + at;
    }
    const int64_t row = place.sample * (args_.y.out / 2) + place.y / 2;
    const int64_t pixel = row * (args_.x.out / 2) + place.x / 2;
    return args_.residual + pixel * args_.out_channels + channel_;
  }

  const ConvArgs& args_;
  const int64_t channel_, count_;
};

void multiply_direct(const ConvArgs& args, const ConvBlock& block, int64_t begin, int64_t end,
                     float* products) {
  multiply_block(args, block, begin, end, products, WholeWeights(args, args.weight));
  const int64_t group_sums = conv_products(args, block.rows);
  for (int64_t r = 0; r < block.rows; ++r) {
    const Place place = place_of(args, block.first + r);
    for (int64_t k = begin; k < end; ++k) {
      const float* const from = products + (k - begin) * group_sums + r * kGroup;
      Floats values[kParts];
      SEPTET_UNROLL
      for (int v = 0; v < kParts; ++v) values[v] = Floats::load(from + v * kLanes);
      Finish(args, k).store(place, values);
    }
  }
}

// -- Winograd ------------------------------------------------------------------------------------

template <class W>
class Tiles {
  static constexpr int M = W::kOutputs, P = W::kPoints;

 public:
  // One row per tile and one plane per point; the depth is the channels.
  static void rearrange(const ConvArgs& args, const ConvBlock& block, int64_t index) {
    const Part part(args, block, index);
    const int64_t plane = conv_plane(args, block.rows);
    for (int64_t r = 0; r < part.rows(); ++r) {
      const Place place = place_of(args, block.first + part.first() + r);
      const float* pixels[P][P];
      for (int y = 0; y < P; ++y) {
        for (int x = 0; x < P; ++x) {
          const int64_t pixel = pixel_at(args, place.sample, place.y + y - args.y.padding,
                                         place.x + x - args.x.padding);
          pixels[y][x] = channels_at(args, pixel, 0);
        }
      }
      part.for_depths([&](int64_t begin, int64_t end, float* to) {
        to += r * kGroup;
        for (int64_t g = begin; g < end; ++g, to += part.rows() * kGroup) {
          transform_group(args, pixels, g * kGroup, to, plane);
        }
      });
    }
  }

  static void multiply(const ConvArgs& args, const ConvBlock& block, int64_t begin, int64_t end,
                       float* products) {
    if (args.points != nullptr) {
      multiply_block(args, block, begin, end, products, WholeWeights(args, args.points));
    } else {
      float* const panel = products + (end - begin) * conv_products(args, block.rows);
      multiply_block(args, block, begin, end, products, TransformedWeights<W>(args, panel));
    }
    const int64_t plane = block.rows * kGroup + kGroup;
    for (int64_t r = 0; r < block.rows; ++r) {
      const Place place = place_of(args, block.first + r);
      for (int64_t k = begin; k < end; ++k) {
        const float* const from = products + (k - begin) * P * P * plane + r * kGroup;
        transform_output(args, place, from, plane, Finish(args, k));
      }
    }
  }

 private:
  static void transform_group(const ConvArgs& args, const float* (&pixels)[P][P], int64_t channel,
                              float* to, int64_t plane) {
    const int64_t left = args.channels - channel;
    if (left >= kGroup) {
      // The second-level cache holds little of the input: what the groups after the next one need
      // is fetched while this one is computed.
      if (left >= 3 * kGroup) {
        SEPTET_UNROLL
        for (int i = 0; i < P * P; ++i) {
          if (pixels[i / P][i % P] != nullptr) {
            __builtin_prefetch(pixels[i / P][i % P] + channel + 2 * kGroup);
          }
        }
      }
      for (int i = 0; i < kGroup; i += kLanes) transform_input(pixels, channel + i, to + i, plane);
      return;
    }
    alignas(64) float values[P][P][kGroup];
    const float* tail[P][P];
    for (int y = 0; y < P; ++y) {
      for (int x = 0; x < P; ++x) {
        tail[y][x] = pixels[y][x] == nullptr ? nullptr : values[y][x];
        if (tail[y][x] != nullptr) load_group(pixels[y][x] + channel, left, values[y][x]);
      }
    }
    for (int i = 0; i < kGroup; i += kLanes) transform_input(tail, i, to + i, plane);
  }

  static HOST_DEVICE void transform_input(const float* (&pixels)[P][P], int64_t channel, float* to,
                                          int64_t plane) {
    Floats columns[P][P];  // [x][point]
    SEPTET_UNROLL
    for (int x = 0; x < P; ++x) {
      Floats in[P];
      SEPTET_UNROLL
      for (int y = 0; y < P; ++y) {
        in[y] = pixels[y][x] == nullptr ? Floats(0.0f) : Floats::load(pixels[y][x] + channel);
      }
      W::input(in, columns[x]);
    }
    SEPTET_UNROLL
    for (int y = 0; y < P; ++y) {
      Floats in[P], points[P];
      SEPTET_UNROLL
      for (int x = 0; x < P; ++x) in[x] = columns[x][y];
      W::input(in, points);
      SEPTET_UNROLL
      for (int x = 0; x < P; ++x) points[x].store(to + (y * P + x) * plane);
    }
  }

  static HOST_DEVICE void transform_output(const ConvArgs& args, const Place& place,
                                           const float* from, int64_t plane, const Finish& finish) {
    Floats results[M][M][kParts];
    SEPTET_UNROLL
    for (int v = 0; v < kParts; ++v) {
      Floats columns[P][M];  // [x][output]
      SEPTET_UNROLL
      for (int x = 0; x < P; ++x) {
        Floats in[P];
        SEPTET_UNROLL
        for (int y = 0; y < P; ++y) {
          in[y] = Floats::load(from + (y * P + x) * plane + v * kLanes);
        }
        W::output(in, columns[x]);
      }
      SEPTET_UNROLL
      for (int y = 0; y < M; ++y) {
        Floats in[P], out[M];
        SEPTET_UNROLL
        for (int x = 0; x < P; ++x) in[x] = columns[x][y];
        W::output(in, out);
        SEPTET_UNROLL
        for (int x = 0; x < M; ++x) results[y][x][v] = out[x];
      }
    }
    for (int y = 0; y < M && place.y + y < args.y.out; ++y) {
      for (int x = 0; x < M && place.x + x < args.x.out; ++x) {
        finish.store({place.sample, place.y + y, place.x + x}, results[y][x]);
      }
    }
  }
};

template <class W>
ConvKernels winograd_kernels() {
  return {kMostRows, Tiles<W>::rearrange, Tiles<W>::multiply, TransformedWeights<W>::kFloats,
          TransformedWeights<W>::transform_all};
}

}  // namespace

ConvKernels conv_kernels(int algorithm) {
  switch (algorithm) {
    case kWinograd2:
      return winograd_kernels<Winograd<2>>();
    case kWinograd4:
      return winograd_kernels<Winograd<4>>();
    default:
      return {kMostRows, rearrange_direct, multiply_direct, 0, nullptr};
  }
}

void conv_pack(const ConvPackArgs& args, int64_t begin, int64_t end) {
  const int64_t taps = args.height * args.width, rows = args.depth * kGroup;
  float* to = args.out + begin * rows * kGroup;
  for (int64_t i = begin * rows; i < end * rows; ++i, to += kGroup) {
    const int64_t group = i / rows, tap = i % rows / args.channels,
                  channel = i % rows % args.channels;
    for (int64_t lane = 0; lane < kGroup; ++lane) {
      const int64_t k = group * kGroup + lane;
      const bool is_weight = tap < taps && k < args.out_channels;
      to[lane] = is_weight ? args.weight[(k * args.channels + channel) * taps + tap] : 0.0f;
    }
  }
}

SEPTET_ISA_END
}  // namespace septet
