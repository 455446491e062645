// The elementary operations that functors are written in, for a single value. launch/lanes.h
// overloads the same names for vectors of values, so a functor serves both.
#pragma once

#include <cstdint>

#include "functors/host_device.h"

namespace septet {
SEPTET_ISA_BEGIN

// The integer type whose lanes carry the bits of V's lanes.
template <class V>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = int32_t;
};
template <class V>
using bits_t = typename BitsOf<V>::type;

#if defined(__CUDA_ARCH__)
HOST_DEVICE int32_t as_bits(float value) {
  return __float_as_int(value);
}
HOST_DEVICE float as_float(int32_t bits) {
  return __int_as_float(bits);
}
HOST_DEVICE float fma(float a, float b, float c) {
  return ::fmaf(a, b, c);
}
HOST_DEVICE double fma(double a, double b, double c) {
  return ::fma(a, b, c);
}
HOST_DEVICE float sqrt(float x) {
  return ::sqrtf(x);
}
HOST_DEVICE double sqrt(double x) {
  return ::sqrt(x);
}
#else
HOST_DEVICE int32_t as_bits(float value) {
  return __builtin_bit_cast(int32_t, value);
}
HOST_DEVICE float as_float(int32_t bits) {
  return __builtin_bit_cast(float, bits);
}
HOST_DEVICE float fma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
HOST_DEVICE double fma(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}
HOST_DEVICE float sqrt(float x) {
  return __builtin_sqrtf(x);
}
HOST_DEVICE double sqrt(double x) {
  return __builtin_sqrt(x);
}
#endif

HOST_DEVICE float to_value(int32_t i) {
  return static_cast<float>(i);
}
HOST_DEVICE float to_value(uint32_t i) {
  return static_cast<float>(i);
}

// Towards zero; the value must fit.
HOST_DEVICE int32_t truncate(float x) {
  return static_cast<int32_t>(x);
}

HOST_DEVICE int32_t as_signed(uint32_t word) {
  return static_cast<int32_t>(word);
}

template <class T>
HOST_DEVICE T select(bool condition, T a, T b) {
  return condition ? a : b;
}

// NaN in a gives b.
HOST_DEVICE float maximum(float a, float b) {
  return a > b ? a : b;
}
HOST_DEVICE float minimum(float a, float b) {
  return a < b ? a : b;
}
HOST_DEVICE double maximum(double a, double b) {
  return a > b ? a : b;
}
HOST_DEVICE double minimum(double a, double b) {
  return a < b ? a : b;
}

// High and low word of the product of two 32-bit words.
HOST_DEVICE void multiply_wide(uint32_t a, uint32_t b, uint32_t& high, uint32_t& low) {
  const uint64_t product = static_cast<uint64_t>(a) * b;
  high = static_cast<uint32_t>(product >> 32);
  low = static_cast<uint32_t>(product);
}

SEPTET_ISA_END
}  // namespace septet
