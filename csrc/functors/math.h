// exp, log, sine and cosine of our own, so that every device and instruction set gives the same
// bits. Polynomials are least-maximum fits; the errors stated are over all arguments in the stated
// range, against float64 (tests/ops/test_math.py measures them).
#pragma once

#include "functors/scalar.h"

namespace septet {
SEPTET_ISA_BEGIN

// Natural logarithm for normal positive x, within 1 ulp. Others mean nothing: Box-Muller, which it
// is for, has none.
template <class V>
HOST_DEVICE V log(V x) {
  using I = bits_t<V>;
  // x = m * 2^e with m in [2/3, 4/3): log(1 + small) needs no cancelling correction there.
  const I bits = as_bits(x);
  const I exponent = (bits - I(0x3F2AAAAB)) & I(static_cast<int32_t>(0xFF800000u));
  const V m = as_float(bits - exponent) - V(1.0f);
  const V e = to_value(exponent) * V(1.1920929e-7f);
  V p = V(-0.13214618f);
  p = fma(p, m, V(0.13982396f));
  p = fma(p, m, V(-0.12109895f));
  p = fma(p, m, V(0.14007261f));
  p = fma(p, m, V(-0.16685839f));
  p = fma(p, m, V(0.20010239f));
  p = fma(p, m, V(-0.24999681f));
  p = fma(p, m, V(0.33333221f));
  const V m2 = m * m;
  V r = fma(p * m, m2, V(-0.5f) * m2);
  r = fma(e, V(-1.9046542e-9f), r);
  r = r + m;
  return fma(e, V(0.6931471824645996f), r);
}

// Exponential, within 2 ulp; 0 and infinity beyond the range of float.
template <class V>
HOST_DEVICE V exp(V x) {
  using I = bits_t<V>;
  const V clamped = select(x > V(89.0f), V(89.0f), select(x < V(-104.0f), V(-104.0f), x));
  // Adding 1.5 * 2^23 leaves round(x / ln 2) in the low bits.
  const V magic = V(12582912.0f);
  const V shifted = fma(clamped, V(1.44269504f), magic);
  const I n = as_bits(shifted) - I(0x4B400000);
  const V steps = shifted - magic;
  V r = fma(steps, V(-0.6931471824645996f), clamped);
  r = fma(steps, V(1.9046542e-9f), r);
  V p = V(0.0013950807f);
  p = fma(p, r, V(0.0083690733f));
  p = fma(p, r, V(0.0416662022f));
  p = fma(p, r, V(0.1666651666f));
  p = fma(p, r, V(0.5f));
  p = fma(p * r, r, r) + V(1.0f);
  // Two factors, because 2^n alone would leave the range of normal numbers.
  const I half = n >> 1;
  const V result = p * as_float((half + I(127)) << 23) * as_float((n - half + I(127)) << 23);
  return select(x == x, result, x);
}

// 2^x for |x| up to 125, within 2 ulp; beyond, that of the nearest bound. Activations are satisfied
// with it, and it takes half the operations of exp.
template <class V>
HOST_DEVICE V exp2_bounded(V x) {
  const V clamped = minimum(V(125.0f), maximum(V(-125.0f), x));
  const V magic = V(12582912.0f);
  const V shifted = clamped + magic;
  const V r = clamped - (shifted - magic);
  V p = V(0.000154760448f);
  p = fma(p, r, V(0.00134004164f));
  p = fma(p, r, V(0.00961800478f));
  p = fma(p, r, V(0.0555032753f));
  p = fma(p, r, V(0.240226507f));
  p = fma(p, r, V(0.693147182f));
  p = fma(p, r, V(1.0f));
  return as_float(as_bits(p) + (as_bits(shifted) << 23));
}

// Sine and cosine for |x| up to one turn, within 2 ulp (absolute error 2^-24 next to the zeros).
template <class V>
HOST_DEVICE void sincos(V x, V& sine, V& cosine) {
  using I = bits_t<V>;
  const V magic = V(12582912.0f);
  const V shifted = fma(x, V(0.636619772f), magic);
  const I quadrant = as_bits(shifted);
  const V turns = shifted - magic;
  V r = fma(turns, V(-1.5707963705062866f), x);
  r = fma(turns, V(4.371138828673793e-08f), r);
  r = fma(turns, V(1.7151245100058819e-15f), r);
  const V r2 = r * r;
  V s = V(-0.00019514083f);
  s = fma(s, r2, V(0.0083321547f));
  s = fma(s, r2, V(-0.16666655f));
  s = fma(s * r2, r, r);
  V c = V(2.4434845e-5f);
  c = fma(c, r2, V(-0.0013887337f));
  c = fma(c, r2, V(0.041666646f));
  c = fma(c, r2, V(-0.5f));
  c = fma(c, r2, V(1.0f));
  const auto odd = (quadrant & I(1)) != I(0);
  const I sine_sign = (quadrant & I(2)) << 30;
  const I cosine_sign = ((quadrant + I(1)) & I(2)) << 30;
  sine = as_float(as_bits(select(odd, c, s)) ^ sine_sign);
  cosine = as_float(as_bits(select(odd, s, c)) ^ cosine_sign);
}

// double keeps the C library: it serves accuracy checks, not speed.
template <>
HOST_DEVICE double exp<double>(double x) {
#if defined(__CUDA_ARCH__)
  return ::exp(x);
#else
  return __builtin_exp(x);
#endif
}

template <>
HOST_DEVICE double exp2_bounded<double>(double x) {
  return exp(0.69314718055994530942 * x);
}

SEPTET_ISA_END
}  // namespace septet
