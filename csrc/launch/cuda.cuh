// The one door between our kernels and CUDA.
//
// Every .cu file includes this header instead of <cuda_runtime.h> and starts its kernels with
// `launch` instead of <<<>>>. That is all it takes for the same source to compile with an ordinary
// C++ compiler as well (SEPTET_EMULATED), where it runs on the CPU under the thread-block emulator
// of tests/emulation: every kernel can then be tested on a machine without a GPU.
//
// Three spellings keep a kernel readable by both compilers:
//   SEPTET_UNROLL                      for #pragma unroll, which g++ does not know
//   alignas(16) __shared__ float x[4]  in this order
//   launch(kernel<float>, ...)         with all template arguments of the kernel written out
#pragma once

#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#if defined(SEPTET_EMULATED)
#include "emulator.h"
#elif defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#error "launch/cuda.cuh needs nvcc, or SEPTET_EMULATED for the thread-block emulator"
#endif

#include "functors/host_device.h"  // SEPTET_UNROLL

namespace septet {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;

// ---------------------------------------------------------------------------------------------
// Host: starting kernels
// ---------------------------------------------------------------------------------------------

#if !defined(SEPTET_EMULATED)
inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("septet: ") + what + ": " + cudaGetErrorName(error) +
                             ": " + cudaGetErrorString(error));
  }
}
#endif

// Starts `kernel` on `stream`. A grid without blocks is no work, hence no launch (CUDA itself calls
// it an invalid configuration). type_identity keeps `args` out of deduction, so that they convert
// to the kernel's parameters as in a plain call.
template <class... Params>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared_bytes,
            [[maybe_unused]] cudaStream_t stream, std::type_identity_t<Params>... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(SEPTET_EMULATED)
  emulation::run(grid, block, shared_bytes, [&] { kernel(args...); });
#else
  // Above 48 KiB a kernel has to opt in.
  if (shared_bytes > 48 * 1024) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)),
               "shared memory request");
  }
  // clang-format off: it would tear >>> apart, which nvcc then does not understand.
  kernel<<<grid, block, shared_bytes, stream>>>(args...);
  // clang-format on
  check_cuda(cudaGetLastError(), "kernel launch");
#endif
}

// Blocks of a grid-stride kernel: enough for `work_items`, but no more than `max_blocks`.
inline unsigned grid_size(std::int64_t work_items, int block, std::int64_t max_blocks) {
  const std::int64_t blocks = (work_items + block - 1) / block;
  return static_cast<unsigned>(blocks < max_blocks ? blocks : max_blocks);
}

#if !defined(SEPTET_EMULATED)
// Cached, because it is asked before every launch of some kernels.
template <cudaDeviceAttr kAttribute>
int device_attribute(int device) {
  static std::array<std::atomic<int>, 64> values{};
  std::atomic<int>& cached = values.at(static_cast<std::size_t>(device));
  int value = cached.load(std::memory_order_relaxed);
  if (value == 0) {
    check_cuda(cudaDeviceGetAttribute(&value, kAttribute, device), "device attribute");
    cached.store(value, std::memory_order_relaxed);
  }
  return value;
}
#endif

// The emulated device is small, so that the grid-stride loops take more than one turn in tests.
inline int multiprocessor_count([[maybe_unused]] int device) {
#if defined(SEPTET_EMULATED)
  return 4;
#else
  return device_attribute<cudaDevAttrMultiProcessorCount>(device);
#endif
}

// How much dynamic shared memory a block may have, beside a few KiB of static one.
inline std::int64_t dynamic_shared_limit([[maybe_unused]] int device) {
#if defined(SEPTET_EMULATED)
  return emulation::dynamic_shared_limit();
#else
  constexpr std::int64_t kStatic = 16 * 1024;
  return device_attribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>(device) - kStatic;
#endif
}

// Whether the device has what launch/mma.cuh needs.
inline bool has_async_tensor_cores([[maybe_unused]] int device) {
#if defined(SEPTET_EMULATED)
  return emulation::compute_capability() >= 8;
#else
  return device_attribute<cudaDevAttrComputeCapabilityMajor>(device) >= 8;
#endif
}

// ---------------------------------------------------------------------------------------------
// Device: shared memory
// ---------------------------------------------------------------------------------------------

// The dynamic shared memory of the block, `shared_bytes` of `launch`, aligned for the widest load.
// One byte array serves all element types: CUDA does not allow extern __shared__ arrays of one name
// and several types.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(SEPTET_EMULATED)
  return static_cast<T*>(emulation::dynamic_shared_memory());
#else
  extern __shared__ __align__(16) unsigned char septet_dynamic_shared[];
  return reinterpret_cast<T*>(septet_dynamic_shared);
#endif
}

// An array in shared memory: `__shared__ SharedArray<float, 32> sums;`. The emulator checks every
// index, which a plain array would not let it do: arrays lie next to each other.
template <class T, int kSize>
struct SharedArray {
  T values[kSize];

  __device__ __forceinline__ T& operator[](int index) {
#if defined(SEPTET_EMULATED)
    emulation::check_index(index, kSize);
#endif
    return values[index];
  }
  __device__ __forceinline__ T* data() { return values; }
};

// ---------------------------------------------------------------------------------------------
// Device: warps and blocks
// ---------------------------------------------------------------------------------------------

// Rank of this thread in its block, in the order in which CUDA cuts warps.
__device__ __forceinline__ int thread_rank() {
  return static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
}

template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int lane_mask, unsigned mask = kFullWarp) {
  return __shfl_xor_sync(mask, value, lane_mask);
}

template <class T>
__device__ __forceinline__ T shuffle_down(T value, unsigned delta, unsigned mask = kFullWarp) {
  return __shfl_down_sync(mask, value, delta);
}

template <class T>
__device__ __forceinline__ T shuffle(T value, int source_lane, unsigned mask = kFullWarp) {
  return __shfl_sync(mask, value, source_lane);
}

// Sum over the warp, given to every lane. Addition commutes, so both partners of an exchange
// compute the same bits and all lanes agree. All 32 lanes must take part.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  SEPTET_UNROLL
  for (int lane_mask = kWarpSize / 2; lane_mask > 0; lane_mask /= 2) {
    value += shuffle_xor(value, lane_mask);
  }
  return value;
}

// Sum over the block, given to every thread, in an order that depends on the block size alone. All
// threads must take part, and the block must consist of whole warps.
template <class T>
__device__ __forceinline__ T block_sum(T value) {
  __shared__ SharedArray<T, kWarpSize> warp_sums;
  const int warps = static_cast<int>(blockDim.x * blockDim.y * blockDim.z) / kWarpSize;
  const int lane = thread_rank() % kWarpSize;
  value = warp_sum(value);
  if (lane == 0) warp_sums[thread_rank() / kWarpSize] = value;
  __syncthreads();
  value = warp_sum(lane < warps ? warp_sums[lane] : T(0));
  __syncthreads();  // The next call writes to warp_sums again.
  return value;
}

// ---------------------------------------------------------------------------------------------
// Device: fast mathematics
// ---------------------------------------------------------------------------------------------

// fast_log and fast_sincos are only for bit equality with the normals of torch, which come from
// curand's Box-Muller transform and so from exactly these two functions. Everything else, but for
// what fast_exp2 says, uses the polynomials of functors/.
__device__ __forceinline__ float fast_log(float x) {
#if defined(SEPTET_EMULATED)
  return std::log(x);
#else
  return logf(x);
#endif
}

// 2^x by the unit for special functions, within 2 ulp: next to tensor cores, a polynomial would
// take longer than the matrix products. 0 for -inf.
__device__ __forceinline__ float fast_exp2(float x) {
#if defined(SEPTET_EMULATED)
  return std::exp2(x);
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

__device__ __forceinline__ void fast_sincos(float x, float* sine, float* cosine) {
#if defined(SEPTET_EMULATED)
  *sine = std::sin(x);
  *cosine = std::cos(x);
#else
  __sincosf(x, sine, cosine);
#endif
}

// ---------------------------------------------------------------------------------------------
// Device: vector memory access
// ---------------------------------------------------------------------------------------------

// N neighbours that move as one; its alignment lets nvcc use a single instruction of up to 128
// bits.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  static_assert(sizeof(T) * N <= 16, "the widest load of a GPU has 16 bytes");
  T v[N];
};

// `source` and `target` must be aligned to the whole pack. A GPU faults if they are not; so does
// the emulator, though the CPU would not mind.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* source) {
#if defined(SEPTET_EMULATED)
  emulation::check_aligned(source, sizeof(Pack<T, N>));
#endif
  return *reinterpret_cast<const Pack<T, N>*>(source);
}

template <int N, class T>
__device__ __forceinline__ void store_pack(T* target, const Pack<T, N>& pack) {
#if defined(SEPTET_EMULATED)
  emulation::check_aligned(target, sizeof(Pack<T, N>));
#endif
  *reinterpret_cast<Pack<T, N>*>(target) = pack;
}

}  // namespace septet
