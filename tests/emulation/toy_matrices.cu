// Kernels that try out launch/mma.cuh, and a C interface through which test_emulator_matrices.py
// runs them. Some are wrong on purpose.
#include "launch/mma.cuh"
#include "toys.h"

namespace septet {
namespace {

template <class T>
__device__ std::uint32_t pair_of(const T& low, const T& high) {
  return low.bits | static_cast<std::uint32_t>(high.bits) << 16;
}

// c [16, 8] += a [16, 16] b [16, 8], all row by row. `wrong` exchanges the roles of two numbers in
// the fragment of B, as one easily does.
template <class T>
__global__ void multiply_kernel(const T* a, const T* b, float* c, bool wrong) {
  const int lane = static_cast<int>(threadIdx.x);
  const int g = lane / 4, t = lane % 4;
  const int column = wrong ? lane % 8 : g, first = wrong ? lane / 8 : t;
  std::uint32_t left[4], right[2];
  for (int i = 0; i < 4; ++i) {
    const T* const at = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
    left[i] = pair_of(at[0], at[1]);
  }
  for (int i = 0; i < 2; ++i) {
    const T* const at = b + (2 * first + i * 8) * 8 + column;
    right[i] = pair_of(at[0], at[8]);
  }
  float sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  multiply_matrices<T>(sums, left, right);
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
}

// The same for k columns of `a`, [16, k], and a transposed `b`, [8, k], through shared memory and
// ldmatrix; k is a multiple of 16.
template <class T>
__global__ void multiply_shared_kernel(const T* a, const T* b, float* c, int k) {
  T* const left = dynamic_shared<T>();
  T* const right = left + 16 * (k + 8);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 24 * k / 8; i += kWarpSize) {
    const int row = i / (k / 8), d = i % (k / 8) * 8;
    copy_async(left + row * (k + 8) + d, row < 16 ? a + row * k + d : b + (row - 16) * k + d, true);
  }
  commit_copies();
  wait_for_copies<0>();
  __syncwarp();
  float sums[4] = {};
  for (int d = 0; d < k; d += 32) {
    std::uint32_t y[4];
    load_matrices<false>(y, right + lane % 8 * (k + 8) + d + lane / 8 * 8);
    for (int part = 0; part < 2; ++part) {
      std::uint32_t x[4];
      load_matrices<false>(x, left + lane % 16 * (k + 8) + d + 16 * part + lane / 16 * 8);
      multiply_matrices<T>(sums, x, {y[2 * part], y[2 * part + 1]});
    }
  }
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

// What every lane receives, [32, 4], of four matrices of 8 x 8 values.
template <bool kTransposed>
__global__ void load_kernel(const std::uint16_t* x, std::uint32_t* y, int offset) {
  std::uint16_t* const shared = dynamic_shared<std::uint16_t>();
  for (int i = 0; i < 8; ++i) shared[8 * threadIdx.x + i] = x[8 * threadIdx.x + i];
  __syncwarp();
  std::uint32_t matrices[4];
  load_matrices<kTransposed>(matrices, shared + 8 * threadIdx.x + offset);
  for (int m = 0; m < 4; ++m) y[4 * threadIdx.x + m] = matrices[m];
}

// Two groups of copies, the second of zeros, of which only the first is waited for, or none. Each
// thread reads what its neighbour has copied.
__global__ void copy_kernel(const float* x, float* y, bool wait) {
  float* const first = dynamic_shared<float>();
  float* const second = first + 4 * blockDim.x;
  copy_async(first + 4 * threadIdx.x, x + 4 * threadIdx.x, true);
  commit_copies();
  copy_async(second + 4 * threadIdx.x, x, false);
  commit_copies();
  if (wait) wait_for_copies<1>();
  __syncthreads();
  const unsigned neighbour = (threadIdx.x + 1) % blockDim.x;
  for (int i = 0; i < 4; ++i) {
    y[4 * threadIdx.x + i] = first[4 * neighbour + i];
    y[4 * (blockDim.x + threadIdx.x) + i] = second[4 * neighbour + i];
  }
  __syncthreads();
  wait_for_copies<0>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) {
    y[4 * (2 * blockDim.x + threadIdx.x) + i] = second[4 * neighbour + i];
  }
}

// Some lanes have left before the others multiply.
__global__ void early_exit_kernel(float* y) {
  if (threadIdx.x >= 20) return;
  float sums[4] = {};
  multiply_matrices<float16>(sums, {0, 0, 0, 0}, {0, 0});
  y[threadIdx.x] = sums[0];
}

}  // namespace
}  // namespace septet

TOY multiply_half(const septet::float16* a, const septet::float16* b, float* c, int wrong) {
  return septet::run(septet::multiply_kernel<septet::float16>, 1, 32, 0, a, b, c, wrong != 0);
}
TOY multiply_bfloat(const septet::bfloat16* a, const septet::bfloat16* b, float* c, int wrong) {
  return septet::run(septet::multiply_kernel<septet::bfloat16>, 1, 32, 0, a, b, c, wrong != 0);
}
TOY multiply_shared(const septet::float16* a, const septet::float16* b, float* c, int k) {
  const std::size_t bytes = 24 * (k + 8) * sizeof(septet::float16);
  return septet::run(septet::multiply_shared_kernel<septet::float16>, 1, 32, bytes, a, b, c, k);
}
TOY load(const std::uint16_t* x, std::uint32_t* y, int transposed, int offset) {
  return transposed ? septet::run(septet::load_kernel<true>, 1, 32, 512, x, y, offset)
                    : septet::run(septet::load_kernel<false>, 1, 32, 512, x, y, offset);
}
TOY copy(const float* x, float* y, unsigned block, int wait) {
  return septet::run(septet::copy_kernel, 1, block, 32 * block, x, y, wait != 0);
}
TOY early_exit(float* y) {
  return septet::run(septet::early_exit_kernel, 1, 32, 0, y);
}
