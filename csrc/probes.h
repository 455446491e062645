// A probe of this machine: what no kernel of ours can exceed.
#pragma once

#include <cstdint>

// before the declarations: it opens the inline namespace of the instruction set at hand
#include "functors/scalar.h"
#include "launch/isa.h"

namespace septet {

// float32 operations per second, a fused multiply-add being two, in the best of several intervals.
double fma_peak(int threads, double seconds);

}  // namespace septet

// Writes a value that depends on every multiply-add; returns how many operations there were.
SEPTET_DECLARE_PER_ISA(int64_t multiply_add(int64_t rounds, float* result))
