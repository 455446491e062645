// The product in the middle of every convolution: rearranged inputs times packed weights.
//
// Lanes are output channels, so an output is one chain of multiply-adds per part of the depth, and
// the parts are added in order: the same bits for every instruction set and every division of the
// work.
#pragma once

#include "launch/lanes.h"
#include "ops/conv.h"

namespace septet {
SEPTET_ISA_BEGIN

using Floats = Vector<float>;

// Vectors of a group of channels.
inline constexpr int kParts = static_cast<int>(kGroup) / kLanes;

// A product keeps kMostRows rows of kPanel groups in registers, beside the weights and an input.
#if defined(__AVX512F__)
inline constexpr int kMostRows = 12, kPanel = 2;
#elif defined(__AVX2__)
inline constexpr int kMostRows = 6, kPanel = 1;
#else
inline constexpr int kMostRows = 3, kPanel = 1;
#endif

// The depth is summed in parts of at most so many groups: a part of the weights stays in the cache
// while the rows pass by, and a long chain of sums would gather rounding errors. Winograd's
// transforms enlarge these, hence the shorter chains.
inline constexpr int64_t kMostDepth = 32, kMostWinogradDepth = 8;
HOST_DEVICE int64_t most_depth(const ConvArgs& args) {
  return args.algorithm == kDirect ? kMostDepth : kMostWinogradDepth;
}

// Weights of a run of groups of output channels and of the depth.
struct Panel {
  int64_t group, channels;  // the first group of output channels and how many
  int64_t first, depth;     // the first group of the depth and how many
};

// Where a panel's weights lie: [depth * 16][16] for every plane and group of channels, so many
// floats apart.
struct PanelWeights {
  const float* values;
  int64_t next_plane, next_group;
};

// What to fetch while a plane is multiplied: `lines` cache lines per group of the depth, of each
// group of channels.
struct Prefetch {
  const float* from;
  int64_t lines, next_group;
};

// Where a product reads and writes. A row of the result is kGroup floats long.
struct Product {
  const float* values;   // [groups][rows][16]
  const float* weights;  // [groups * 16][16]
  int64_t groups;
  float* sums;
  bool adds;
  int64_t next_weights, next_sums;  // from a group of channels to the next one
  Prefetch ahead;
};

template <int R, int B>
void multiply_rows(const Product& p) {
  constexpr int kVectors = B * kParts;
  Floats sums[R][kVectors];
  SEPTET_UNROLL
  for (int r = 0; r < R; ++r) {
    SEPTET_UNROLL
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Floats(0.0f);
  }
  const float* values = p.values;
  const float* weights = p.weights;
  const float* ahead = p.ahead.from;
  for (int64_t g = 0; g < p.groups; ++g) {
    for (int64_t line = 0; line < p.ahead.lines; ++line, ahead += kGroup) {
      SEPTET_UNROLL
      for (int b = 0; b < B; ++b) __builtin_prefetch(ahead + b * p.ahead.next_group, 0, 2);
    }
    SEPTET_UNROLL
    for (int j = 0; j < kGroup; ++j) {
      Floats weight[kVectors];
      SEPTET_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        weight[v] =
            Floats::load(weights + v / kParts * p.next_weights + j * kGroup + v % kParts * kLanes);
      }
      SEPTET_UNROLL
      for (int r = 0; r < R; ++r) {
        const Floats value(values[r * kGroup + j]);
        SEPTET_UNROLL
        for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(value, weight[v], sums[r][v]);
      }
    }
    values += R * kGroup;
    weights += kGroup * kGroup;
  }
  SEPTET_UNROLL
  for (int r = 0; r < R; ++r) {
    SEPTET_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      float* const to = p.sums + v / kParts * p.next_sums + r * kGroup + v % kParts * kLanes;
      (p.adds ? Floats::load(to) + sums[r][v] : sums[r][v]).store(to);
    }
  }
}

template <int B, int R = kMostRows>
void multiply_rows(const Product& product, int64_t rows) {
  if constexpr (R > 0) {
    if (rows == R) return multiply_rows<R, B>(product);
    multiply_rows<B, R - 1>(product, rows);
  }
}

// The products of groups of output channels [begin, end) with a block of inputs, as
// [groups][planes] of rows. `weights.panel(p)` is to return the weights of a panel, and
// `weights.ahead(p, plane, next)` what to fetch meanwhile, given the panel after it.
template <class Weights>
void multiply_block(const ConvArgs& args, const ConvBlock& block, int64_t begin, int64_t end,
                    float* products, const Weights& weights) {
  const int64_t plane_sums = block.rows * kGroup + kGroup, group_sums = args.planes * plane_sums;
  const EqualParts depth(args.depth, most_depth(args)), rows(block.rows, kMostRows);
  for (int64_t d = 0; d < depth.parts; ++d) {
    Panel panel{begin, kPanel, depth.begin(d), depth.begin(d + 1) - depth.begin(d)};
    for (; panel.group < end; panel.group += kPanel) {
      const bool is_whole = panel.group + kPanel <= end, is_last = panel.group + kPanel >= end;
      panel.channels = is_whole ? kPanel : 1;
      Panel next = panel;
      next.group = is_last ? begin : panel.group + kPanel;
      next.first = is_last ? panel.first + panel.depth : panel.first;
      if (next.first == args.depth) next.group = end, next.first = 0;
      const PanelWeights found = weights.panel(panel);
      for (int64_t plane = 0; plane < args.planes; ++plane) {
        const float* const values = block.values + plane * conv_plane(args, block.rows);
        float* const sums = products + (panel.group - begin) * group_sums + plane * plane_sums;
        Product p;
        p.weights = found.values + plane * found.next_plane;
        p.groups = panel.depth;
        p.adds = d > 0;
        p.next_weights = found.next_group;
        p.next_sums = group_sums;
        p.ahead = weights.ahead(panel, plane, next);
        p.ahead.lines = (p.ahead.lines + rows.parts - 1) / rows.parts;
        for (int64_t r = 0; r < rows.parts; ++r) {
          const int64_t row = rows.begin(r), count = rows.begin(r + 1) - row;
          p.values = values + (panel.first * block.rows + row * panel.depth) * kGroup;
          p.sums = sums + row * kGroup;
          is_whole ? multiply_rows<kPanel>(p, count) : multiply_rows<1>(p, count);
          p.ahead.from += p.ahead.lines * panel.depth * kGroup;
        }
      }
    }
  }
}

SEPTET_ISA_END
}  // namespace septet
