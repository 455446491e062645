// Group normalisation with the activation that follows it, and its running statistics.
//
//   y = act(((x - mean) / sqrt(var + eps) * weight + bias) * (1 + scale) + shift) * mask
//
// Wu and He, "Group Normalization", ECCV 2018; scale and shift as in Dhariwal and Nichol 2021.
#pragma once

#include "functors/activation.h"

namespace septet {
SEPTET_ISA_BEGIN

// Sums of a run of values, taken about a value near their mean: sums of squares about zero would
// lose the variance of data that lies far from zero.
template <class V>
struct ShiftedSums {
  V sum, squares;
};

template <class V>
HOST_DEVICE void accumulate(ShiftedSums<V>& sums, V x, V about) {
  const V difference = x - about;
  sums.sum = sums.sum + difference;
  sums.squares = fma(difference, difference, sums.squares);
}

// Sums over a group of values, about one of them. Of such sums the variance keeps its digits: where
// that value is an outlier, the variance is large. `count` values of it give
// squares - sum^2 / count >= squares / (1 + count).
template <class T>
struct GroupSums {
  T count, about, sum, squares;
};

// Adds sums over other values of the group, about another of them; no division.
template <class T>
HOST_DEVICE GroupSums<T> merge(GroupSums<T> a, GroupSums<T> b) {
  if (a.count == T(0)) return b;
  const T shift = b.about - a.about;
  const T moved = shift * b.count;
  return {a.count + b.count, a.about, a.sum + (b.sum + moved),
          a.squares + (b.squares + shift * (T(2) * b.sum + moved))};
}

// What normalises a group.
template <class T>
struct Standard {
  T mean, rstd;
};

template <class T>
HOST_DEVICE Standard<T> standard_of(T mean, T variance, T eps) {
  return {mean, T(1) / sqrt((variance < T(0) ? T(0) : variance) + eps)};
}

template <class T>
HOST_DEVICE Standard<T> standard_of(GroupSums<T> sums, T eps) {
  const T shift = sums.sum / sums.count;
  return standard_of(sums.about + shift, (sums.squares - sums.sum * shift) / sums.count, eps);
}

// Normalisation of one channel as one multiply-add: y = factor * x + offset.
template <class T>
struct Affine {
  T factor, offset;
};

template <class T>
HOST_DEVICE Affine<T> normalising_affine(Standard<T> standard, T weight, T bias, T scale, T shift) {
  const T factor = standard.rstd * weight;
  const T gain = T(1) + scale;
  return {factor * gain, fma(-standard.mean, factor, bias) * gain + shift};
}

SEPTET_ISA_END
}  // namespace septet
