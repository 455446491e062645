// Probes of this machine: what no kernel of ours can exceed. The loops are compiled once per
// instruction set, with the loads and stores that the kernels use.
#pragma once

#include <cstdint>

// before the declarations: it opens the inline namespace of the instruction set at hand
#include "functors/scalar.h"
#include "launch/isa.h"

namespace septet {

// Floats that a copy moves at a time, so the length of every copy is a multiple of it.
inline constexpr int64_t kCopyBlock = 64;

// Bytes read and written per second by a copy, together, in the best of several intervals. `bytes`
// is the working set: both buffers of all threads.
double copy_bandwidth(int64_t bytes, int threads, double seconds);

// float32 operations per second, a fused multiply-add being two, in the best of several intervals.
double fma_peak(int threads, double seconds);

}  // namespace septet

SEPTET_DECLARE_PER_ISA(void copy_floats(const float* from, float* to, int64_t count))
// Writes a value that depends on every multiply-add; returns how many operations there were.
SEPTET_DECLARE_PER_ISA(int64_t multiply_add(int64_t rounds, float* result))
