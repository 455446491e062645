// The softmax of attention, one key at a time (Milakov and Gimelshein, "Online normalizer
// calculation for softmax", 2018). Logits are in units of ln 2: the factor log2(e) is part of the
// scale that the queries are multiplied by, so that a weight is a power of two.
//
//   m' = max(m, max_j s_j)
//   l' = l 2^(m - m') + sum_j 2^(s_j - m')
//   o' = o 2^(m - m') + sum_j 2^(s_j - m') v_j
//
// for every tile of keys j; the row of the result is o / l.
#pragma once

#include "functors/math.h"

namespace septet {
SEPTET_ISA_BEGIN

inline constexpr double kLog2E = 1.44269504088896340736;

// 2^x for x <= 0, nothing below 2^-125: a key whose bias is -inf has no part in the result.
template <class V>
HOST_DEVICE V softmax_weight(V x) {
  return select(x < V(-125.0f), V(0.0f), exp2_bounded(x));
}

// What is subtracted from the logits: their maximum, or 0 while all of them are -inf, since the
// difference of two infinities would be NaN.
template <class V>
HOST_DEVICE V softmax_base(V maximum) {
  return select(maximum == V(-__builtin_inff()), V(0.0f), maximum);
}

// 1 / l; 0 if no key has any weight, which makes such a row 0, as torch does.
template <class V>
HOST_DEVICE V softmax_factor(V sum) {
  return select(sum == V(0.0f), V(0.0f), V(1.0f) / sum);
}

SEPTET_ISA_END
}  // namespace septet
