// Group normalisation in one pass: a block reads its part of a sample once, keeps it in shared
// memory while the moments are computed, and writes the result.
//
// The part is one group in the contiguous layout. In channels_last, where a group is a few channels
// of every pixel, it is a slab of neighbouring groups, so that what is read of a pixel fills
// sectors of memory. Every thread keeps to one place in the rows of a slab and to the values that
// it has read itself; only sums are exchanged.
#pragma once

#include "functors/half.h"
#include "launch/stream.cuh"
#include "ops/norm.h"

namespace septet {

constexpr int kNormBlock = 256;
constexpr int kMostSlabGroups = 32;
// Blocks that fit by their registers: without a number ptxas aims at more, and spills.
constexpr int kSlabResident = 4;
// More would leave one block per multiprocessor everywhere.
constexpr std::int64_t kMostSlabBytes = 80 * 1024;

// A slab is `rows` runs of `width` elements, one every `pitch`.
struct NormSlab {
  unsigned blocks = 0;  // of the grid: slabs of all samples
  unsigned groups = 1;  // of a slab
  unsigned rows = 0;
  unsigned width = 1;
  unsigned pitch = 1;
  unsigned packs = 1;            // of a row
  unsigned active = kNormBlock;  // threads, a multiple of `packs`
  std::size_t bytes = 0;
};

// Plans slabs that are accessed in packs of n elements of `size` bytes. Returns false if packs do
// not fit, or slabs not into `most` bytes.
inline bool plan_slab(const NormArgs& args, int n, std::int64_t size, std::int64_t most,
                      NormSlab& slab) {
  constexpr std::int64_t kSectors = 64;  // bytes of a pixel that are worth a request
  const Layout& layout = args.layout;
  const auto aligned = [bytes = n * size](const void* data) {
    return reinterpret_cast<std::uintptr_t>(data) % bytes == 0;
  };
  if (!aligned(args.input) || !aligned(args.out)) return false;
  std::int64_t groups = 1, width = n, rows = args.group_channels * layout.spatial / n;
  if (layout.channels_last) {
    if (layout.channels % n != 0) return false;
    groups = 0;
    rows = layout.spatial;
    for (std::int64_t g = 1; g <= kMostSlabGroups && args.groups % g == 0; g *= 2) {
      const std::int64_t wide = g * args.group_channels;
      if (wide / n > kNormBlock || rows * wide * size > most) break;
      if (wide % n != 0) continue;
      groups = g;
      width = wide;
      if (wide * size >= kSectors) break;
    }
  } else if (args.group_channels * layout.spatial % n != 0) {
    return false;
  }
  if (groups == 0 || rows * width * size > most) return false;
  slab.blocks = static_cast<unsigned>(args.samples * (args.groups / groups));
  slab.groups = static_cast<unsigned>(groups);
  slab.rows = static_cast<unsigned>(rows);
  slab.width = static_cast<unsigned>(width);
  slab.pitch = static_cast<unsigned>(layout.channels_last ? layout.channels : n);
  slab.packs = static_cast<unsigned>(width / n);
  slab.active = kNormBlock / slab.packs * slab.packs;
  slab.bytes = static_cast<std::size_t>(rows * width * size);
  return true;
}

template <class T>
__device__ __forceinline__ accumulator_t<T> value_or(const void* data, std::int64_t index,
                                                     accumulator_t<T> otherwise) {
  return data == nullptr ? otherwise : load_value(static_cast<const T*>(data) + index);
}

template <class T>
__device__ __forceinline__ Affine<accumulator_t<T>> channel_affine(
    const NormArgs& args, const Standard<accumulator_t<T>>& standard, std::int64_t sample,
    unsigned channel) {
  const std::int64_t row = sample * args.scale_shift_stride + channel;
  return normalising_affine<accumulator_t<T>>(
      standard, value_or<T>(args.weight, channel, 1), value_or<T>(args.bias, channel, 0),
      value_or<T>(args.scale_shift, row, 0),
      value_or<T>(args.scale_shift, row + args.layout.channels, 0));
}

template <class T, int N>
struct SlabNorm {
  using A = accumulator_t<T>;
  using Totals = SharedArray<A, kMostSlabGroups>;

  const NormArgs& args;
  const NormSlab& slab;
  const std::int64_t sample;
  const unsigned first_group;
  const unsigned column, row;  // of the thread's packs: the place in a row, and the first row
  T* const kept;

  __device__ SlabNorm(const NormArgs& a, const NormSlab& s)
      : args(a),
        slab(s),
        sample(blockIdx.x / slabs()),
        first_group(blockIdx.x % slabs() * s.groups),
        column(threadIdx.x % s.packs * N),
        row(threadIdx.x / s.packs),
        kept(dynamic_shared<T>()) {}

  __device__ unsigned slabs() const { return static_cast<unsigned>(args.groups) / slab.groups; }
  __device__ unsigned group_channels() const { return static_cast<unsigned>(args.group_channels); }
  __device__ std::int64_t origin() const {
    const std::int64_t group =
        args.layout.channels_last ? args.group_channels : args.group_channels * args.layout.spatial;
    return sample * args.layout.per_sample + first_group * group;
  }
  // The group of an element of the thread's packs, counted in the slab.
  __device__ unsigned group_of(int lane) const {
    return slab.groups == 1 ? 0 : (column + static_cast<unsigned>(lane)) / group_channels();
  }

  // Calls f(row, where the pack is kept) for the packs of this thread.
  template <class F>
  __device__ __forceinline__ void for_packs(F f) const {
    if (threadIdx.x >= slab.active) return;
    for (unsigned r = row; r < slab.rows; r += slab.active / slab.packs) {
      f(r, kept + r * slab.width + column);
    }
  }

  // The sums of each group over all threads. All threads must take part.
  __device__ __forceinline__ void add_up(const A (&sums)[N], Totals& totals) const {
    if (slab.groups == 1) {
      A sum = 0;
      SEPTET_UNROLL
      for (int j = 0; j < N; ++j) sum += sums[j];
      sum = block_sum(sum);
      if (threadIdx.x == 0) totals[0] = sum;
      __syncthreads();
      return;
    }
    __shared__ SharedArray<A, kNormBlock * N> partial;
    SEPTET_UNROLL
    for (int j = 0; j < N; ++j) partial[static_cast<int>(threadIdx.x) * N + j] = sums[j];
    __syncthreads();
    const unsigned warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
    for (unsigned g = warp; g < slab.groups; g += kNormBlock / kWarpSize) {
      // Channels of the group, and the rows of threads that have summed them.
      const unsigned channels = group_channels(), stride = slab.packs * N;
      A sum = 0;
      for (unsigned i = lane; i < slab.active / slab.packs * channels; i += kWarpSize) {
        sum += partial[static_cast<int>(i / channels * stride + g * channels + i % channels)];
      }
      sum = warp_sum(sum);
      if (lane == 0) totals[static_cast<int>(g)] = sum;
    }
    __syncthreads();
  }

  // Where row r of the thread's packs lies in input and result.
  __device__ __forceinline__ std::int64_t offset(unsigned r) const {
    return origin() + static_cast<std::int64_t>(r) * slab.pitch + column;
  }

  __device__ __forceinline__ void store(unsigned r, const T* at,
                                        const Affine<A> (&affine)[N]) const {
    const auto spatial = static_cast<unsigned>(args.layout.spatial);
    Pack<T, N> pack = load_pack<N>(at);
    SEPTET_UNROLL
    for (int j = 0; j < N; ++j) {
      A y = activate(args.activation,
                     fma(load_value(pack.v + j), affine[j].factor, affine[j].offset));
      if (args.mask != nullptr) {
        const unsigned pixel = args.layout.channels_last ? r : (r * N + j) % spatial;
        y *= load_value(static_cast<const T*>(args.mask) + sample * spatial + pixel);
      }
      store_value(pack.v + j, y);
    }
    store_pack(static_cast<T*>(args.out) + offset(r), pack);
  }

  // The layouts differ in when the channel of a lane changes: never, or from row to row.
  __device__ __forceinline__ void apply(const Standard<A> (&standards)[N]) const {
    const unsigned first_channel = first_group * group_channels();
    Affine<A> affine[N];
    if (args.layout.channels_last) {
      SEPTET_UNROLL
      for (int j = 0; j < N; ++j) {
        affine[j] = channel_affine<T>(args, standards[j], sample, first_channel + column + j);
      }
      for_packs([&](unsigned r, const T* at) { store(r, at, affine); });
      return;
    }
    const auto spatial = static_cast<unsigned>(args.layout.spatial);
    for_packs([&](unsigned r, const T* at) {
      unsigned channel = r * N / spatial;
      unsigned end = (channel + 1) * spatial;  // of the channel, in elements of the slab
      affine[0] = channel_affine<T>(args, standards[0], sample, first_channel + channel);
      SEPTET_UNROLL
      for (int j = 1; j < N; ++j) {
        affine[j] = affine[j - 1];
        if (r * N + j < end) continue;
        ++channel;
        end += spatial;
        affine[j] = channel_affine<T>(args, standards[0], sample, first_channel + channel);
      }
      store(r, at, affine);
    });
  }

  __device__ __forceinline__ void run(Totals& totals, Totals& squares) const {
    const T* const input = static_cast<const T*>(args.input);
    const A count = static_cast<A>(args.group_channels * args.layout.spatial);
    A sums[N] = {};
    for_packs([&](unsigned r, T* at) {
      const Pack<T, N> pack = load_pack<N>(input + offset(r));
      store_pack(at, pack);
      SEPTET_UNROLL
      for (int j = 0; j < N; ++j) sums[j] += load_value(pack.v + j);
    });
    add_up(sums, totals);
    Standard<A> standards[N];
    SEPTET_UNROLL
    for (int j = 0; j < N; ++j) {
      standards[j].mean = totals[static_cast<int>(group_of(j))] / count;
      sums[j] = 0;
    }
    for_packs([&](unsigned, const T* at) {
      const Pack<T, N> pack = load_pack<N>(at);
      SEPTET_UNROLL
      for (int j = 0; j < N; ++j) {
        const A difference = load_value(pack.v + j) - standards[j].mean;
        sums[j] = fma(difference, difference, sums[j]);
      }
    });
    add_up(sums, squares);
    SEPTET_UNROLL
    for (int j = 0; j < N; ++j) {
      const A variance = squares[static_cast<int>(group_of(j))] / count;
      standards[j] = standard_of(standards[j].mean, variance, static_cast<A>(args.eps));
    }
    apply(standards);
  }
};

template <class T, int N>
__global__ void __launch_bounds__(kNormBlock, kSlabResident)
    norm_slab_kernel(const __grid_constant__ NormArgs args, const __grid_constant__ NormSlab slab) {
  __shared__ SharedArray<accumulator_t<T>, kMostSlabGroups> totals, squares;
  SlabNorm<T, N>(args, slab).run(totals, squares);
}

}  // namespace septet
