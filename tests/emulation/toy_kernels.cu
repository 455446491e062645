// Kernels that try out the emulator and the wrappers of launch/cuda.cuh, and a C interface through
// which test_emulator.py runs them. Some are wrong on purpose: the emulator has to say so.
#include <cstdint>

#include "toys.h"

namespace septet {
namespace {

constexpr int kBlock = 128;

template <class T>
__global__ void __launch_bounds__(1024) block_sum_kernel(const T* __restrict__ x, T* y) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const T first = block_sum(x[i]);
  // Twice in a row, and a result that every thread must agree on.
  y[i] = block_sum(x[i]) + (first - first);
}

__global__ void tree_sum_kernel(const float* x, float* y, int count) {
  float* partial = dynamic_shared<float>();
  const int thread = static_cast<int>(threadIdx.x);
  const int i = static_cast<int>(blockIdx.x * blockDim.x) + thread;
  partial[thread] = i < count ? x[i] : 0.0f;
  __syncthreads();
  for (int half = static_cast<int>(blockDim.x) / 2; half > 0; half /= 2) {
    if (thread < half) partial[thread] += partial[thread + half];
    __syncthreads();
  }
  if (thread == 0) y[blockIdx.x] = partial[0];
}

// The same without the barrier between writing and reading.
__global__ void missing_barrier_kernel(const float* x, float* y) {
  float* partial = dynamic_shared<float>();
  partial[threadIdx.x] = x[threadIdx.x];
  if (threadIdx.x == 0) {
    float sum = 0.0f;
    for (unsigned i = 0; i < blockDim.x; ++i) sum += partial[i];
    y[0] = sum;
  }
}

// Reverses each tile of a row through static shared memory, and several blocks use it in turn.
__global__ void static_shared_kernel(const int* x, int* y) {
  alignas(16) __shared__ int tile[kBlock];
  const unsigned i = blockIdx.x * kBlock + threadIdx.x;
  tile[threadIdx.x] = x[i];
  __syncthreads();
  y[i] = tile[kBlock - 1 - threadIdx.x];
}

// One row of `y` for each operation.
template <class T>
__global__ void shuffle_kernel(const T* x, T* y, int width) {
  const int n = static_cast<int>(blockDim.x * blockDim.y);
  const int i = thread_rank();
  y[i] = __shfl_up_sync(kFullWarp, x[i], 3u, width);
  y[n + i] = __shfl_down_sync(kFullWarp, x[i], 3u, width);
  y[2 * n + i] = __shfl_xor_sync(kFullWarp, x[i], 5, width);
  y[3 * n + i] = __shfl_sync(kFullWarp, x[i], 7, width);
  __syncwarp();
}

__global__ void vote_kernel(const int* x, unsigned* y) {
  const unsigned n = blockDim.x;
  const unsigned i = threadIdx.x;
  y[i] = __ballot_sync(kFullWarp, x[i]);
  y[n + i] = static_cast<unsigned>(__any_sync(kFullWarp, x[i]));
  y[2 * n + i] = static_cast<unsigned>(__all_sync(kFullWarp, x[i]));
}

// Both halves of a warp exchange among themselves, in different branches.
__global__ void half_warp_kernel(const int* x, int* y) {
  const int i = static_cast<int>(threadIdx.x);
  if (i % kWarpSize < 16) {
    y[i] = shuffle(x[i], 0, 0x0000ffffu);
  } else {
    y[i] = shuffle(x[i], 16, 0xffff0000u) + shuffle_down(x[i], 1u, 0xffff0000u);
  }
}

// The threads without work leave before the barriers.
__global__ void early_exit_kernel(const int* x, int* y, int count) {
  __shared__ int values[kBlock];
  const int i = static_cast<int>(threadIdx.x);
  if (i >= count) return;
  values[i] = x[i];
  __syncthreads();
  const int neighbour = values[(i + 1) % count];
  __syncthreads();
  values[i] = neighbour;
  __syncthreads();
  y[i] = values[(i + 1) % count];
}

template <class T>
__global__ void atomic_kernel(const T* x, T* total, std::int64_t count) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
    atomicAdd(total, x[i]);
  }
}

__global__ void fill_kernel(float* y) {
  y[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f;
}

// Writes what dynamic shared memory held before anybody wrote there, and one value `beyond` its
// end.
__global__ void fresh_memory_kernel(float* y, int beyond) {
  float* memory = dynamic_shared<float>();
  y[blockIdx.x * blockDim.x + threadIdx.x] = memory[threadIdx.x];
  memory[threadIdx.x] = 1.0f;
  if (beyond > 0 && threadIdx.x == 0) memory[blockDim.x + beyond - 1] = 1.0f;
}

__global__ void pack_kernel(const std::uint16_t* x, std::uint16_t* y, int offset) {
  auto pack = load_pack<8>(x + offset + 8 * threadIdx.x);
  __syncthreads();
  SEPTET_UNROLL
  for (int i = 0; i < 8; ++i) pack.v[i] = static_cast<std::uint16_t>(pack.v[i] + 1);
  store_pack(y + 8 * threadIdx.x, pack);
}

__global__ void normal_kernel(const float* x, float* y) {
  const unsigned i = threadIdx.x;
  y[i] = fast_log(x[i]);
  fast_sincos(x[i], &y[blockDim.x + i], &y[2 * blockDim.x + i]);
}

// Half of the threads wait for the block, the others for their warp.
__global__ void barrier_against_shuffle_kernel(int* y) {
  int value = static_cast<int>(threadIdx.x);
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    value = shuffle_xor(value, 1);
  }
  y[threadIdx.x] = value;
}

// Every thread reaches a barrier, but not the same one.
__global__ void two_barriers_kernel(int* y) {
  if (threadIdx.x < 40) {
    y[threadIdx.x] = 1;
    __syncthreads();
  } else {
    y[threadIdx.x] = 2;
    __syncthreads();
  }
}

// The mask forgets the lane that calls.
__global__ void wrong_mask_kernel(int* y) {
  y[threadIdx.x] = shuffle_xor(1, 1, 0x0000ffffu);
}

}  // namespace
}  // namespace septet

TOY block_sum_float(const float* x, float* y, unsigned grid, unsigned block) {
  return septet::run(septet::block_sum_kernel<float>, grid, block, 0, x, y);
}
TOY block_sum_double(const double* x, double* y, unsigned grid, unsigned block) {
  return septet::run(septet::block_sum_kernel<double>, grid, block, 0, x, y);
}
TOY tree_sum(const float* x, float* y, int count, unsigned grid, unsigned block) {
  return septet::run(septet::tree_sum_kernel, grid, block, block * sizeof(float), x, y, count);
}
TOY missing_barrier(const float* x, float* y, unsigned block) {
  return septet::run(septet::missing_barrier_kernel, 1, block, block * sizeof(float), x, y);
}
TOY static_shared(const int* x, int* y, unsigned grid) {
  return septet::run(septet::static_shared_kernel, grid, septet::kBlock, 0, x, y);
}
TOY shuffle_float(const float* x, float* y, int width, unsigned block_x, unsigned block_y) {
  return septet::run(septet::shuffle_kernel<float>, 1, dim3(block_x, block_y), 0, x, y, width);
}
TOY shuffle_double(const double* x, double* y, int width, unsigned block_x, unsigned block_y) {
  return septet::run(septet::shuffle_kernel<double>, 1, dim3(block_x, block_y), 0, x, y, width);
}
TOY vote(const int* x, unsigned* y, unsigned block) {
  return septet::run(septet::vote_kernel, 1, block, 0, x, y);
}
TOY half_warp(const int* x, int* y, unsigned block) {
  return septet::run(septet::half_warp_kernel, 1, block, 0, x, y);
}
TOY early_exit(const int* x, int* y, int count) {
  return septet::run(septet::early_exit_kernel, 1, septet::kBlock, 0, x, y, count);
}
TOY atomic_int(const int* x, int* total, std::int64_t count) {
  const unsigned grid =
      septet::grid_size(count, septet::kBlock, 2 * septet::multiprocessor_count(0));
  return septet::run(septet::atomic_kernel<int>, grid, septet::kBlock, 0, x, total, count);
}
TOY atomic_float(const float* x, float* total, std::int64_t count) {
  const unsigned grid =
      septet::grid_size(count, septet::kBlock, 2 * septet::multiprocessor_count(0));
  return septet::run(septet::atomic_kernel<float>, grid, septet::kBlock, 0, x, total, count);
}
TOY atomic_double(const double* x, double* total, std::int64_t count) {
  const unsigned grid =
      septet::grid_size(count, septet::kBlock, 2 * septet::multiprocessor_count(0));
  return septet::run(septet::atomic_kernel<double>, grid, septet::kBlock, 0, x, total, count);
}
TOY fill(float* y, unsigned grid, unsigned block) {
  return septet::run(septet::fill_kernel, grid, block, 0, y);
}
TOY fresh_memory(float* y, int beyond, unsigned grid, unsigned block) {
  return septet::run(septet::fresh_memory_kernel, grid, block, block * sizeof(float), y, beyond);
}
TOY large_memory(float* y, unsigned block, std::size_t shared_bytes) {
  return septet::run(septet::fresh_memory_kernel, 1, block, shared_bytes, y, 0);
}
TOY pack(const std::uint16_t* x, std::uint16_t* y, int offset, unsigned block) {
  return septet::run(septet::pack_kernel, 1, block, 0, x, y, offset);
}
TOY normal(const float* x, float* y, unsigned block) {
  return septet::run(septet::normal_kernel, 1, block, 0, x, y);
}
TOY barrier_against_shuffle(int* y, unsigned grid, unsigned block) {
  return septet::run(septet::barrier_against_shuffle_kernel, grid, block, 0, y);
}
TOY two_barriers(int* y, unsigned block) {
  return septet::run(septet::two_barriers_kernel, 1, block, 0, y);
}
TOY wrong_mask(int* y, unsigned block) {
  return septet::run(septet::wrong_mask_kernel, 1, block, 0, y);
}
