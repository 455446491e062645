// MT19937 and the normal numbers that torch makes from it on a CPU with AVX2.
//
// Matsumoto, Nishimura: "Mersenne Twister", ACM TOMACS 8 (1998). The logarithm, sine and cosine
// are those of Moshier's Cephes library in single precision. Every rounding has to be torch's, so
// they keep torch's order of operations and its choice between fma and separate operations; where
// an operation is exact, a shorter way to the same value is taken.
#pragma once

#include "functors/scalar.h"

namespace septet {
SEPTET_ISA_BEGIN

inline constexpr int kMt19937Words = 624;   // words of state: x[k + 624] follows from x[k..]
inline constexpr int kMt19937Middle = 397;  // ... x[k + 1] and x[k + 397]

// The recurrence: x[k + 624] from x[k], x[k + 1] and x[k + 397].
template <class W>
HOST_DEVICE W mt19937_next(W first, W second, W middle) {
  const W mixed = first ^ ((first ^ second) & W(0x7FFFFFFFu));
  const W odd = W(0u) - (second & W(1u));
  return middle ^ (mixed >> 1) ^ (odd & W(0x9908B0DFu));
}

// From a word of the sequence to the random number.
template <class W>
HOST_DEVICE W mt19937_temper(W word) {
  word = word ^ (word >> 11);
  word = word ^ ((word << 7) & W(0x9D2C5680u));
  word = word ^ ((word << 15) & W(0xEFC60000u));
  return word ^ (word >> 18);
}

// Natural logarithm for normal positive x.
template <class V>
HOST_DEVICE V cephes_log(V x) {
  using I = bits_t<V>;
  // x = (1 + m) * 2^e with 1 + m in [sqrt(1/2), sqrt(2)); all exact.
  const I bits = as_bits(x);
  const I exponent = (bits - I(0x3F3504F3)) & I(static_cast<int32_t>(0xFF800000u));
  const V m = as_float(bits - exponent) - V(1.0f);
  const V e = to_value(exponent);  // times 2^23, which the factors take back
  const V m2 = m * m;
  V p = V(7.0376836292e-2f);
  p = fma(p, m, V(-1.1514610310e-1f));
  p = fma(p, m, V(1.1676998740e-1f));
  p = fma(p, m, V(-1.2420140846e-1f));
  p = fma(p, m, V(1.4249322787e-1f));
  p = fma(p, m, V(-1.6668057665e-1f));
  p = fma(p, m, V(2.0000714765e-1f));
  p = fma(p, m, V(-2.4999993993e-1f));
  p = fma(p, m, V(3.3333331174e-1f));
  p = fma(p * m, m2, e * V(-2.12194440e-4f * 0x1p-23f));
  p = fma(m2, V(-0.5f), p);
  return fma(e, V(0.693359375f * 0x1p-23f), m + p);
}

// Sine and cosine for x from 0 to one turn.
template <class V>
HOST_DEVICE void cephes_sincos(V x, V& sine, V& cosine) {
  using I = bits_t<V>;
  // The octant, the odd ones counted with the next.
  const I octant = (truncate(x * V(1.27323954473516f)) + I(1)) & I(~1);
  const V turns = to_value(octant);
  V r = fma(turns, V(-0.78515625f), x);
  r = fma(turns, V(-2.4187564849853515625e-4f), r);
  r = fma(turns, V(-3.77489497744594108e-8f), r);
  const V r2 = r * r;
  V c = V(2.443315711809948e-5f);
  c = fma(c, r2, V(-1.388731625493765e-3f));
  c = fma(c, r2, V(4.166664568298827e-2f));
  c = fma(c * r2, r2, r2 * V(-0.5f)) + V(1.0f);
  V s = V(-1.9515295891e-4f);
  s = fma(s, r2, V(8.3321608736e-3f));
  s = fma(s, r2, V(-1.6666654611e-1f));
  s = fma(s * r2, r, r);
  const auto swap = (octant & I(2)) != I(0);
  const I sine_sign = (octant & I(4)) << 29;
  const I cosine_sign = ((octant + I(2)) & I(4)) << 29;
  sine = as_float(as_bits(select(swap, c, s)) ^ sine_sign);
  cosine = as_float(as_bits(select(swap, s, c)) ^ cosine_sign);
}

// Two random words to two normals, cosine first. torch uses 24 bits of a word; its uniform numbers
// and one minus them are exact in float.
template <class V, class W>
HOST_DEVICE void mt19937_box_muller(W radius_word, W angle_word, V& first, V& second) {
  const W mask = W(0xFFFFFFu);
  const V u = fma(to_value(as_signed(radius_word & mask)), V(-0x1p-24f), V(1.0f));
  const V angle = to_value(as_signed(angle_word & mask)) * V(6.2831855f * 0x1p-24f);
  const V radius = sqrt(V(-2.0f) * cephes_log(u));
  V sine, cosine;
  cephes_sincos(angle, sine, cosine);
  // Adding the mean, 0, makes every zero positive. Nothing is small enough to underflow.
  first = fma(radius, cosine, V(0.0f));
  second = fma(radius, sine, V(0.0f));
}

SEPTET_ISA_END
}  // namespace septet
