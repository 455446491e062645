// Tensor cores and asynchronous copies, for compute capability 8.0 and later: PTX instructions on a
// GPU, their definition in tests/emulation/include/emulator_mma.h on the CPU.
//
// Names of the PTX ISA: mma.m16n8k16, ldmatrix, cp.async. A warp multiplies a 16 x 16 matrix A by a
// 16 x 8 matrix B; every lane holds a fragment of each. With g = lane / 4 and t = lane % 4, and two
// values of 16 bits in a register:
//
//   A    a[0]: row g, columns 2t, 2t+1    a[1]: row g + 8    a[2]: columns + 8    a[3]: both
//   B    b[0]: rows 2t, 2t+1, column g    b[1]: rows + 8
//   C    c[0], c[1]: row g, columns 2t, 2t+1    c[2], c[3]: row g + 8
#pragma once

#include "functors/half.h"
#include "launch/cuda.cuh"

#if defined(SEPTET_EMULATED)
#include "emulator_mma.h"
#endif

namespace septet {

// c += a b with sums in float32; T is float16 or bfloat16. All lanes of the warp take part.
template <class T>
__device__ __forceinline__ void multiply_matrices(float (&c)[4], const std::uint32_t (&a)[4],
                                                  const std::uint32_t (&b)[2]) {
#if defined(SEPTET_EMULATED)
  emulation::multiply_matrices<T>(c, a, b);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, float16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

// Reads four 8 x 8 matrices of 16-bit values from shared memory. Lane i gives the address, aligned
// to 16 bytes, of row i % 8 of matrix i / 8. Of each matrix a lane receives row g, columns 2t and
// 2t+1; or, transposed, rows 2t and 2t+1 of column g.
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(std::uint32_t (&matrices)[4], const void* row) {
#if defined(SEPTET_EMULATED)
  emulation::load_matrices<kTransposed>(matrices, row);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
  }
#endif
}

// Two values rounded to T in one register, `low` in the low half.
template <class T>
__device__ __forceinline__ std::uint32_t pack_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  std::uint32_t pair;
  if constexpr (std::is_same_v<T, float16>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
#else
  T first, second;
  from_float(low, first);
  from_float(high, second);
  return first.bits | static_cast<std::uint32_t>(second.bits) << 16;
#endif
}

// Starts to copy 16 bytes to shared memory, or to fill them with zeros if they are not `present`.
// Both addresses are multiples of 16; `from` is not read where nothing is present.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool present) {
#if defined(SEPTET_EMULATED)
  emulation::copy_async(to, present ? from : nullptr, 16);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(address), "l"(from), "r"(present ? 16 : 0)
               : "memory");
#endif
}

// Closes a group of copies of this thread; it may be empty.
__device__ __forceinline__ void commit_copies() {
#if defined(SEPTET_EMULATED)
  emulation::commit_copies();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for all groups of this thread but the last kPending. What the others of the block have
// copied is there after a barrier.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
#if defined(SEPTET_EMULATED)
  emulation::wait_for_copies(kPending);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace septet
