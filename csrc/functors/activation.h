// Activations of the networks.
#pragma once

#include "functors/math.h"

namespace septet {
SEPTET_ISA_BEGIN

// The numbers are part of the op schemas.
enum Activation { kIdentity = 0, kSilu = 1, kMish = 2 };

// exp(x) as a power of two. Where rounding log2(e) x shows, for large |x|, the activations are flat
// or vanish.
template <class V>
HOST_DEVICE V exp_of(V x) {
  return exp2_bounded(V(1.44269504088896340736) * x);
}

// x * sigmoid(x)
template <class V>
HOST_DEVICE V silu(V x) {
  return x / (V(1) + exp_of(-x));
}

// x * tanh(log(1 + exp(x))) (Misra 2020). With e = exp(x) the hyperbolic tangent is
// n / (n + 2), n = e (e + 2).
template <class V>
HOST_DEVICE V mish(V x) {
  // Beyond 20 the quotient rounds to 1, and e would overflow in time.
  const V e = exp_of(minimum(V(20), x));
  const V n = e * (e + V(2));
  return x * (n / (n + V(2)));
}

template <class V>
HOST_DEVICE V activate(int activation, V x) {
  if (activation == kSilu) return silu(x);
  if (activation == kMish) return mish(x);
  return x;
}

SEPTET_ISA_END
}  // namespace septet
