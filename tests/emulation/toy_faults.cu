// Kernels with bugs that the detector has to find, each beside a correct one of the same kind where
// `fault` is 0. test_detector.py runs them.
#include <cstdint>

#include "launch/mma.cuh"
#include "toys.h"

namespace septet {
namespace {

constexpr int kBlock = 64;

__device__ int rank() {
  return static_cast<int>(threadIdx.x);
}

// Every thread takes what its neighbour has written. Fault 1: no barrier before reading. Fault 2:
// none before writing again.
__global__ void exchange_kernel(const float* x, float* y, int fault) {
  __shared__ SharedArray<float, kBlock> values;
  for (int round = 0; round < 2; ++round) {
    values[rank()] = x[rank()] + static_cast<float>(round);
    if (fault != 1) __syncthreads();
    y[rank()] = values[(rank() + 1) % kBlock];
    if (fault != 2) __syncthreads();
  }
}

// The same within a warp. Fault 1: a shuffle, which orders no memory, instead of the barrier.
// Fault 2: a barrier of half of the warp.
__global__ void exchange_in_warp_kernel(const int* x, int* y, int fault) {
  int* const values = dynamic_shared<int>();
  const int lane = rank() % kWarpSize;
  values[rank()] = x[rank()];
  if (fault == 0) {
    __syncwarp();
  } else if (fault == 1) {
    shuffle(0, 0);
  } else {
    __syncwarp(lane < 16 ? 0x0000ffffu : 0xffff0000u);
  }
  y[rank()] = values[rank() - lane + (lane + 1) % kWarpSize];
}

// Fault 1: the neighbour's element as well. Fault 2: reads one too many. Fault 3: one too early.
__global__ void copy_kernel(const float* x, float* y, int count, int fault) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x) + rank();
  if (i >= count) return;
  const float value = x[fault == 2 ? i + 1 : i];
  y[fault == 3 ? i - 1 : i] = value;
  if (fault == 1 && i == count - 1) y[i + 1] = value;
}

// Fault 1: a store beyond an array in static shared memory, fault 2: beyond dynamic shared memory.
__global__ void shared_kernel(float* y, int fault) {
  __shared__ SharedArray<float, kBlock> fixed;
  float* const sized = dynamic_shared<float>();
  fixed[fault == 1 ? rank() + 1 : rank()] = 1.0f;
  sized[fault == 2 ? rank() + 1 : rank()] = 1.0f;
  __syncthreads();
  y[rank()] = fixed[rank()] + sized[rank()];
}

// Fault 1: only half of the threads have written what is read, in a block that others have used.
__global__ void unwritten_kernel(float* y, int fault) {
  __shared__ SharedArray<float, kBlock> values;
  if (fault == 0 || rank() < kBlock / 2) values[rank()] = 1.0f;
  __syncthreads();
  y[blockIdx.x * kBlock + threadIdx.x] = values[rank()];
}

// Counts. Fault 1: without an atomic operation. Fault 2: reads what others still change.
__global__ void count_kernel(int* total, int* y, int fault) {
  if (fault == 1) {
    *total += 1;
  } else {
    atomicAdd(total, 1);
  }
  if (fault == 2) y[rank()] = *total;
}

// Fault 1: the lower half names only itself but reads the upper. Fault 2: the upper half is named
// and does not come.
__global__ void shuffle_kernel(int* y, int fault) {
  int value = rank();
  if (fault != 2 || rank() % kWarpSize < 16) {
    value = shuffle_xor(value, 16, fault == 1 && rank() % kWarpSize < 16 ? 0x0000ffffu : kFullWarp);
  } else {
    __syncwarp(0xffff0000u);
  }
  y[rank()] = value;
}

// Fault 1: reads before the copy was waited for. Fault 2: its neighbour's copy without a barrier.
__global__ void async_kernel(const float* x, float* y, int fault) {
  float* const values = dynamic_shared<float>();
  copy_async(values + 4 * rank(), x + 4 * rank(), true);
  commit_copies();
  if (fault != 1) wait_for_copies<0>();
  if (fault != 2) __syncthreads();
  y[rank()] = values[4 * ((rank() + 1) % kBlock)];
  wait_for_copies<0>();
}

template <class... Operands>
void allow(std::size_t bytes, Operands... operands) {
  emulation::forget_operands();
  (emulation::allow_access(operands, bytes), ...);
}

}  // namespace
}  // namespace septet

TOY exchange(const float* x, float* y, int fault) {
  septet::allow(septet::kBlock * sizeof(float), x, y);
  return septet::run(septet::exchange_kernel, 1, septet::kBlock, 0, x, y, fault);
}
TOY exchange_in_warp(const int* x, int* y, int fault) {
  septet::allow(septet::kBlock * sizeof(int), x, y);
  return septet::run(septet::exchange_in_warp_kernel, 1, septet::kBlock,
                     septet::kBlock * sizeof(int), x, y, fault);
}
TOY copy(const float* x, float* y, int count, int fault) {
  septet::allow(count * sizeof(float), x, y);
  const unsigned grid = septet::grid_size(count, septet::kBlock, 100);
  return septet::run(septet::copy_kernel, grid, septet::kBlock, 0, x, y, count, fault);
}
TOY shared(float* y, int fault) {
  septet::allow(septet::kBlock * sizeof(float), y);
  return septet::run(septet::shared_kernel, 1, septet::kBlock, septet::kBlock * sizeof(float), y,
                     fault);
}
TOY unwritten(float* y, int fault) {
  septet::allow(2 * septet::kBlock * sizeof(float), y);
  return septet::run(septet::unwritten_kernel, 2, septet::kBlock, 0, y, fault);
}
TOY count(int* total, int* y, int fault) {
  septet::allow(septet::kBlock * sizeof(int), total, y);
  return septet::run(septet::count_kernel, 3, septet::kBlock, 0, total, y, fault);
}
TOY shuffled(int* y, int fault) {
  septet::allow(septet::kBlock * sizeof(int), y);
  return septet::run(septet::shuffle_kernel, 1, septet::kBlock, 0, y, fault);
}
TOY async(const float* x, float* y, int fault) {
  septet::allow(4 * septet::kBlock * sizeof(float), x, y);
  return septet::run(septet::async_kernel, 1, septet::kBlock, 4 * septet::kBlock * sizeof(float), x,
                     y, fault);
}
