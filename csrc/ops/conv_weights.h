// Where the products of a convolution get their weights from.
//
// Winograd's transform makes 16 or 36 weights of 9. They are made of the packed ones when they are
// needed, a panel at a time, and used while they are in the cache: that takes an eighth of the time
// of 16 tiles, and reading them from memory would take longer.
#pragma once

#include "functors/winograd.h"
#include "ops/conv_product.h"

namespace septet {
SEPTET_ISA_BEGIN

// Weights that lie as the products read them: [K / 16][planes][depth][16].
class WholeWeights {
 public:
  WholeWeights(const ConvArgs& args, const float* weights)
      : weights_(weights),
        planes_(args.planes),
        plane_(args.depth * kGroup * kGroup),
        group_(args.planes * plane_) {}

  PanelWeights panel(const Panel& panel) const { return {at(panel), plane_, group_}; }

  Prefetch ahead(const Panel& panel, int64_t plane, const Panel& next) const {
    const bool is_last = plane + 1 == planes_;
    return {is_last ? at(next) : at(panel) + (plane + 1) * plane_, kGroup, group_};
  }

 private:
  const float* at(const Panel& panel) const {
    return weights_ + panel.group * group_ + panel.first * kGroup * kGroup;
  }

  const float* const weights_;
  const int64_t planes_, plane_, group_;
};

// Weights of a 3x3 layer, transformed when they are asked for.
template <class W>
class TransformedWeights {
  static constexpr int P = W::kPoints;
  static constexpr int64_t kTaps = 9, kPlanes = P * P;
  // From a plane to the next one: a cache line more than needed, as in conv_plane().
  static constexpr int64_t kPlane = kPanel * kMostWinogradDepth * kGroup * kGroup + kGroup;

 public:
  // Of a panel.
  static constexpr int64_t kFloats = kPlanes * kPlane;

  TransformedWeights(const ConvArgs& args, float* to)
      : args_(args), packed_(packed_group(args)), to_(to) {}

  PanelWeights panel(const Panel& panel) const {
    const int64_t next_group = panel.depth * kGroup * kGroup;
    for (int64_t i = 0; i < panel.channels; ++i) {
      transform(args_, panel.group + i, panel.first, panel.depth, to_ + i * next_group, kPlane);
    }
    return {to_, kPlane, next_group};
  }

  // The packed weights of the next panel, spread over the planes.
  Prefetch ahead(const Panel&, int64_t plane, const Panel& next) const {
    constexpr int64_t kPlanesPerTap = kPlanes / kTaps, kLines = kGroup / kPlanesPerTap;
    const int64_t tap = plane / kPlanesPerTap, part = plane % kPlanesPerTap;
    const float* const from =
        args_.weight + next.group * packed_ + (tap * args_.channels + next.first * kGroup) * kGroup;
    return {from + part * kLines * next.depth * kGroup, tap < kTaps ? kLines : 0, packed_};
  }

  static void transform_all(const ConvArgs& args, int64_t begin, int64_t end, float* points) {
    const int64_t plane = args.depth * kGroup * kGroup;
    for (int64_t group = begin; group < end; ++group) {
      transform(args, group, 0, args.depth, points + group * kPlanes * plane, plane);
    }
  }

 private:
  static HOST_DEVICE int64_t packed_group(const ConvArgs& args) {
    return groups_of(kTaps * args.channels) * kGroup * kGroup;
  }

  // Groups [first, first + depth) of the channels of one group of output channels.
  static void transform(const ConvArgs& args, int64_t group, int64_t first, int64_t depth,
                        float* to, int64_t plane) {
    const float* const taps = args.weight + group * packed_group(args);
    const int64_t end = (first + depth) * kGroup;
    for (int64_t channel = first * kGroup; channel < end; ++channel, to += kGroup) {
      for (int lane = 0; lane < kGroup; lane += kLanes) {
        if (channel < args.channels) {
          transform_lanes(taps + channel * kGroup + lane, args.channels * kGroup, to + lane, plane);
        } else {
          for (int i = 0; i < kPlanes; ++i) Floats(0.0f).store(to + i * plane + lane);
        }
      }
    }
  }

  static HOST_DEVICE void transform_lanes(const float* taps, int64_t next_tap, float* to,
                                          int64_t plane) {
    Floats columns[3][P];
    SEPTET_UNROLL
    for (int x = 0; x < 3; ++x) {
      Floats in[3];
      SEPTET_UNROLL
      for (int y = 0; y < 3; ++y) in[y] = Floats::load(taps + (3 * y + x) * next_tap);
      W::weight(in, columns[x]);
    }
    SEPTET_UNROLL
    for (int y = 0; y < P; ++y) {
      const Floats in[3] = {columns[0][y], columns[1][y], columns[2][y]};
      Floats points[P];
      W::weight(in, points);
      SEPTET_UNROLL
      for (int x = 0; x < P; ++x) points[x].store(to + (y * P + x) * plane);
    }
  }

  const ConvArgs& args_;
  const int64_t packed_;
  float* const to_;
};

SEPTET_ISA_END
}  // namespace septet
