// Order statistics of absolute values by radix selection: the bits of |x| sort as integers, so the
// value of a given rank is found digit by digit, from histograms of digits and without sorting.
//
// The bound of dynamic thresholding (Saharia et al. 2022, section 2.3) is made of two of them.
#pragma once

#include "functors/scalar.h"

namespace septet {
SEPTET_ISA_BEGIN

// The first digit of a float is its exponent and three bits of its mantissa.
inline constexpr int kDigitBits = 11;
inline constexpr int kDigits = 1 << kDigitBits;

// Signed, because vectors without AVX compare signed integers only.
template <class A>
struct Magnitude;
template <>
struct Magnitude<float> {
  using type = int32_t;
  static constexpr int bits = 31;
  static constexpr type infinity = 0x7F800000;
  static constexpr type largest = 0x7FFFFFFF;
};
template <>
struct Magnitude<double> {
  using type = int64_t;
  static constexpr int bits = 63;
  static constexpr type infinity = 0x7FF0000000000000;
  static constexpr type largest = 0x7FFFFFFFFFFFFFFF;
};
template <class A>
using magnitude_t = typename Magnitude<A>::type;

// The bits of |x|; those of a NaN lie above infinity.
HOST_DEVICE int32_t magnitude_bits(float x) {
  return as_bits(x) & Magnitude<float>::largest;
}
HOST_DEVICE float from_magnitude(int32_t bits) {
  return as_float(bits);
}
#if defined(__CUDA_ARCH__)
HOST_DEVICE int64_t magnitude_bits(double x) {
  return __double_as_longlong(x) & Magnitude<double>::largest;
}
HOST_DEVICE double from_magnitude(int64_t bits) {
  return __longlong_as_double(bits);
}
#else
HOST_DEVICE int64_t magnitude_bits(double x) {
  return __builtin_bit_cast(int64_t, x) & Magnitude<double>::largest;
}
HOST_DEVICE double from_magnitude(int64_t bits) {
  return __builtin_bit_cast(double, bits);
}
#endif

// Bits that are left for lower digits once the next digit of `width` bits has been found.
HOST_DEVICE int bits_below_digit(int width) {
  return width > kDigitBits ? width - kDigitBits : 0;
}

// s = clamp(the value `weight` of the way from `below` to `above`, 1, maximum). Interpolates as
// torch.lerp, infinities included, and NaN passes through. The maximum comes last, as in
// torch.clamp, where a maximum below 1 wins.
template <class A>
HOST_DEVICE A threshold_bound(A below, A above, A weight, A maximum_bound) {
  const A span = above - below;
  const A quantile = weight < A(0.5) ? fma(weight, span, below) : fma(weight - A(1), span, above);
  return minimum(maximum_bound, maximum(A(1), quantile));
}

SEPTET_ISA_END
}  // namespace septet
