// One layer of DiffWave (Kong et al. 2021, figure 2) in the variant of BDDM (Lam et al. 2022),
// which adds the step embedding to the residual path itself:
//
//   s = (x + step) * mask
//   f, g = conv3(s, dilation) + bias + mel
//   o = tanh(f) * sigmoid(g)
//   x' = (s + residual o + residual_bias) * sqrt(1/2)
//   skips' = skips + skip o + skip_bias
#pragma once

#include "functors/activation.h"

namespace septet {
SEPTET_ISA_BEGIN

inline constexpr int kTaps = 3;

template <class V>
HOST_DEVICE V shifted_input(V x, V step, V mask) {
  return (x + step) * mask;
}

// tanh(f) sigmoid(g) with one division: (1 - a) / ((1 + a) (1 + b)), a = exp(-2f), b = exp(-g).
template <class V>
HOST_DEVICE V gated(V f, V g) {
  // Beyond 2^60 the quotient of the a is -1, and the product of both sums stays finite for every b
  // that leaves more of it than 2^-67.
  const V a = exp2_bounded(minimum(V(60), V(-2.88539008177792681472) * f));
  const V b = exp_of(-g);
  return (V(1) - a) / ((V(1) + a) * (V(1) + b));
}

template <class V>
HOST_DEVICE V residual_output(V s, V residual) {
  return (s + residual) * V(0.70710678118654752440);
}

// Four outputs of a convolution with three taps, from six inputs, by six products instead of
// twelve (Winograd 1980; Lavin and Gray 2016): y = A^T [(G w) * (B^T d)]. The points are 0, +-a,
// +-1/a and infinity with a = sqrt(1/2), which lose less than the customary 0, +-1, +-2.
struct WinogradRun {
  static constexpr int kOutputs = 4, kInputs = 6;
  static constexpr double kPoint = 0.70710678118654752440;

  template <class V>
  static HOST_DEVICE void transform_input(const V (&d)[kInputs], V (&v)[kInputs]) {
    const V near_even = fma(V(-2), d[2], d[4]), near_odd = fma(V(-2), d[1], d[3]);
    const V far_even = fma(V(-0.5f), d[2], d[4]), far_odd = fma(V(-0.5f), d[1], d[3]);
    v[0] = fma(V(-2.5f), d[2], d[4]) + d[0];
    v[1] = fma(V(kPoint), near_odd, near_even);
    v[2] = fma(V(-kPoint), near_odd, near_even);
    v[3] = fma(V(2 * kPoint), far_odd, far_even);
    v[4] = fma(V(-2 * kPoint), far_odd, far_even);
    v[5] = fma(V(-2.5f), d[3], d[5]) + d[1];
  }

  // In float64: it is done once per layer.
  static HOST_DEVICE void transform_weights(const double (&w)[kTaps], double (&u)[kInputs]) {
    const double near = (w[0] + 0.5 * w[2]) / -1.5, far = (w[0] + 2 * w[2]) / 6;
    u[0] = w[0];
    u[1] = near - kPoint / 1.5 * w[1];
    u[2] = near + kPoint / 1.5 * w[1];
    u[3] = far + 2 * kPoint / 6 * w[1];
    u[4] = far - 2 * kPoint / 6 * w[1];
    u[5] = w[2];
  }

  template <class V>
  static HOST_DEVICE void transform_output(const V (&m)[kInputs], V (&y)[kOutputs]) {
    const V near_even = m[1] + m[2], near_odd = V(kPoint) * (m[1] - m[2]);
    const V far_even = m[3] + m[4], far_odd = V(2 * kPoint) * (m[3] - m[4]);
    y[0] = m[0] + (near_even + far_even);
    y[1] = near_odd + far_odd;
    y[2] = fma(V(2), far_even, V(0.5f) * near_even);
    y[3] = fma(V(2), far_odd, V(0.5f) * near_odd) + m[5];
  }
};

SEPTET_ISA_END
}  // namespace septet
