// Winograd's minimal filtering (Lavin and Gray 2016): M outputs of a correlation with 3 taps from
// M + 2 inputs by M + 2 products. Interpolates at 0, 1, -1 and infinity for M = 2; for M = 4 at 0,
// +-1/sqrt(2), +-sqrt(2) and infinity, which lose half the digits that 0, +-1, +-2 lose. Applied to
// columns and then to rows, the transforms serve M x M outputs of a 3x3 correlation.
#pragma once

#include "functors/scalar.h"

namespace septet {
SEPTET_ISA_BEGIN

template <int M>
struct Winograd;

template <>
struct Winograd<2> {
  static constexpr int kOutputs = 2, kPoints = 4;

  template <class V>
  static HOST_DEVICE void input(const V (&x)[4], V (&y)[4]) {
    y[0] = x[0] - x[2];
    y[1] = x[1] + x[2];
    y[2] = x[2] - x[1];
    y[3] = x[1] - x[3];
  }

  template <class V>
  static HOST_DEVICE void weight(const V (&g)[3], V (&u)[4]) {
    using T = typename V::value_type;
    const V half{T(0.5)}, outer = half * (g[0] + g[2]), inner = half * g[1];
    u[0] = g[0];
    u[1] = outer + inner;
    u[2] = outer - inner;
    u[3] = g[2];
  }

  template <class V>
  static HOST_DEVICE void output(const V (&m)[4], V (&y)[2]) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) - m[3];
  }
};

template <>
struct Winograd<4> {
  static constexpr int kOutputs = 4, kPoints = 6;
  // sqrt(1/2); the other points are twice as large.
  static constexpr double kPoint = 0.70710678118654752440;

  template <class V>
  static HOST_DEVICE void input(const V (&x)[6], V (&y)[6]) {
    using T = typename V::value_type;
    const V small{T(kPoint)}, large{T(2 * kPoint)}, half{T(0.5)}, two{T(2)}, ends{T(2.5)};
    const V small_even = fma(-two, x[2], x[4]), small_odd = fma(-two, x[1], x[3]);
    const V large_even = fma(-half, x[2], x[4]), large_odd = fma(-half, x[1], x[3]);
    y[0] = fma(-ends, x[2], x[0] + x[4]);
    y[1] = fma(small, small_odd, small_even);
    y[2] = fma(-small, small_odd, small_even);
    y[3] = fma(large, large_odd, large_even);
    y[4] = fma(-large, large_odd, large_even);
    y[5] = fma(-ends, x[3], x[1] + x[5]);
  }

  template <class V>
  static HOST_DEVICE void weight(const V (&g)[3], V (&u)[6]) {
    using T = typename V::value_type;
    const V small{T(-2.0 / 3)}, large{T(1.0 / 6)}, outer{T(-1.0 / 3)}, far{T(1.0 / 3)};
    const V small_even = fma(outer, g[2], small * g[0]);
    const V small_odd = V{T(-2.0 / 3 * kPoint)} * g[1];
    const V large_even = fma(far, g[2], large * g[0]);
    const V large_odd = V{T(kPoint / 3)} * g[1];
    u[0] = g[0];
    u[1] = small_even + small_odd;
    u[2] = small_even - small_odd;
    u[3] = large_even + large_odd;
    u[4] = large_even - large_odd;
    u[5] = g[2];
  }

  template <class V>
  static HOST_DEVICE void output(const V (&m)[6], V (&y)[4]) {
    using T = typename V::value_type;
    const V half{T(0.5)}, two{T(2)}, four{T(4)}, point{T(kPoint)};
    const V small_sum = m[1] + m[2], small_difference = m[1] - m[2];
    const V large_sum = m[3] + m[4], large_difference = m[3] - m[4];
    y[0] = m[0] + (small_sum + large_sum);
    y[1] = point * fma(two, large_difference, small_difference);
    y[2] = fma(two, large_sum, half * small_sum);
    y[3] = fma(point, fma(four, large_difference, half * small_difference), m[5]);
  }
};

SEPTET_ISA_END
}  // namespace septet
