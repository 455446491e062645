// The one place that knows whether the mathematics is compiled for a GPU or for a CPU.
#pragma once

#if defined(__CUDACC__)
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE inline __attribute__((always_inline))
#endif

// Loops over a few registers must vanish: gcc keeps an array of vectors in memory while its index
// is a variable. nvcc also hands these functions to the host compiler, which knows neither pragma.
#if defined(__CUDA_ARCH__)
#define SEPTET_UNROLL _Pragma("unroll")
#elif defined(__GNUC__) && !defined(__CUDACC__)
#define SEPTET_UNROLL _Pragma("GCC unroll 16")
#else
#define SEPTET_UNROLL
#endif

// Everything that is compiled once per instruction set lives in a namespace of that set. Without
// it the linker would merge the inline functions of all sets and keep any one of them, so that a
// machine without AVX could run AVX code.
#if !defined(SEPTET_ISA)
#define SEPTET_ISA generic
#endif
#define SEPTET_ISA_BEGIN inline namespace SEPTET_ISA {
#define SEPTET_ISA_END }
