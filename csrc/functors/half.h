// float16 and bfloat16 as plain bits, and their conversions to and from float (round to nearest,
// ties to even, NaN stays NaN).
#pragma once

#include <cstdint>

#include "functors/host_device.h"
#include "functors/scalar.h"

namespace septet {
SEPTET_ISA_BEGIN

HOST_DEVICE float bits_to_float(uint32_t bits) {
  return as_float(static_cast<int32_t>(bits));
}
HOST_DEVICE uint32_t float_to_bits(float value) {
  return static_cast<uint32_t>(as_bits(value));
}

struct float16 {
  uint16_t bits;
};

struct bfloat16 {
  uint16_t bits;
};

HOST_DEVICE float to_float(bfloat16 h) {
  return bits_to_float(static_cast<uint32_t>(h.bits) << 16);
}

HOST_DEVICE void from_float(float f, bfloat16& h) {
  const uint32_t bits = float_to_bits(f);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  h.bits = static_cast<uint16_t>(f == f ? rounded : 0x7FC0u);
}

HOST_DEVICE float to_float(float16 h) {
#if defined(__CUDA_ARCH__)
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.bits));
  return f;
#else
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  const uint32_t magnitude = h.bits & 0x7FFFu;
  // Scaling by 2^112 turns the half exponent into the float one, subnormals included.
  const float scaled = bits_to_float(magnitude << 13) * bits_to_float(0x77800000u);
  const float value =
      magnitude >= 0x7C00u ? bits_to_float(0x7F800000u | (magnitude << 13)) : scaled;
  return bits_to_float(sign | float_to_bits(value));
#endif
}

HOST_DEVICE void from_float(float f, float16& h) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(f));
#else
  const uint32_t bits = float_to_bits(f);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  uint32_t result;
  if (magnitude >= 0x7F800000u) {
    result = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  } else if (magnitude >= 0x477FF000u) {  // rounds to 65536 or more
    result = 0x7C00u;
  } else if (magnitude < 0x38800000u) {
    // Below the smallest normal half: adding 0.5 lines the value up with the subnormal grid.
    result = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3F000000u;
  } else {
    result = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  }
  h.bits = static_cast<uint16_t>(sign | result);
#endif
}

HOST_DEVICE float to_float(float f) {
  return f;
}
HOST_DEVICE void from_float(float f, float& out) {
  out = f;
}

// The type a storage type is computed in.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using accumulator_t = typename AccumulatorOf<T>::type;

template <class T>
HOST_DEVICE accumulator_t<T> load_value(const T* address) {
  if constexpr (sizeof(T) == sizeof(accumulator_t<T>)) {
    return *address;
  } else {
    return to_float(*address);
  }
}

template <class T>
HOST_DEVICE void store_value(T* address, accumulator_t<T> value) {
  if constexpr (sizeof(T) == sizeof(accumulator_t<T>)) {
    *address = value;
  } else {
    from_float(value, *address);
  }
}

SEPTET_ISA_END
}  // namespace septet
