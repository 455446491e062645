// Philox normals of single elements, for kernels that draw their own noise.
#pragma once

#include "functors/half.h"
#include "functors/philox.h"
#include "launch/cuda.cuh"
#include "ops/noise.h"

namespace septet {

// What curand uses, for bit equality with torch.randn.
struct CurandMath {
  template <class V>
  static __device__ __forceinline__ V log(V x) {
    return fast_log(x);
  }
  template <class V>
  static __device__ __forceinline__ void sincos(V x, V& sine, V& cosine) {
    fast_sincos(x, &sine, &cosine);
  }
};

template <class Math>
__device__ __forceinline__ float pick_normal(const PhiloxBlock<std::uint32_t>& block,
                                             std::uint32_t component) {
  float sine, cosine;
  box_muller<Math>(component < 2 ? block.x : block.z, component < 2 ? block.y : block.w, sine,
                   cosine);
  return component % 2 ? cosine : sine;
}

__device__ __forceinline__ PhiloxBlock<std::uint32_t> philox_block(const PhiloxArgs& args,
                                                                   std::int64_t row,
                                                                   std::int64_t element,
                                                                   std::uint32_t& component) {
  const std::int64_t stream = element / args.per_stream;
  const std::int64_t* pairs = args.pairs != nullptr ? args.pairs : args.inline_pairs;
  const auto seed = static_cast<std::uint64_t>(pairs[2 * stream]);
  const auto offset = static_cast<std::uint64_t>(pairs[2 * stream + 1] + row * args.increment);
  const PhiloxPlace place = philox_place(static_cast<std::uint64_t>(element % args.per_stream),
                                         offset, static_cast<std::uint64_t>(args.threads));
  component = place.component;
  return philox4x32<std::uint32_t>(
      {static_cast<std::uint32_t>(place.index), static_cast<std::uint32_t>(place.index >> 32),
       static_cast<std::uint32_t>(place.thread), static_cast<std::uint32_t>(place.thread >> 32)},
      static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
}

// The normal of the element at `position` in memory.
__device__ __forceinline__ float normal_at(const PhiloxArgs& args, std::int64_t row,
                                           std::int64_t position) {
  std::uint32_t component;
  const PhiloxBlock<std::uint32_t> block =
      philox_block(args, row, logical_index(args.layout, position), component);
  return args.threads != 0 ? pick_normal<CurandMath>(block, component)
                           : pick_normal<PortableMath>(block, component);
}

// Whether N neighbours in memory, N a multiple of 4, are the numbers of whole blocks of one stream.
inline bool normals_come_in_packs(const PhiloxArgs& args, int n) {
  return n % 4 == 0 && args.threads == 0 && !args.layout.channels_last && args.per_stream % n == 0;
}

// The normals of such neighbours: a quarter of the work that one element after the other takes.
template <int N>
__device__ __forceinline__ void normals_at(const PhiloxArgs& args, std::int64_t row,
                                           std::int64_t first, float (&normals)[N]) {
  static_assert(N % 4 == 0);
  SEPTET_UNROLL
  for (int i = 0; i < N; i += 4) {
    std::uint32_t component;
    const PhiloxBlock<std::uint32_t> block = philox_block(args, row, first + i, component);
    box_muller<PortableMath>(block.x, block.y, normals[i], normals[i + 1]);
    box_muller<PortableMath>(block.z, block.w, normals[i + 2], normals[i + 3]);
  }
}

}  // namespace septet
