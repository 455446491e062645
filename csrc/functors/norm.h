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

// Mean and sum of squared differences from it, of `count` values.
template <class T>
struct Moments {
  T count, mean, squares;
};

template <class T>
HOST_DEVICE Moments<T> moments_of(T count, T sum, T squares, T about) {
  const T mean = sum / count;
  return {count, about + mean, squares - sum * mean};
}

// Chan, Golub and LeVeque 1983: the moments of two sets from those of each.
template <class T>
HOST_DEVICE Moments<T> merge(Moments<T> a, Moments<T> b) {
  if (a.count == T(0)) return b;
  if (b.count == T(0)) return a;
  const T count = a.count + b.count;
  const T delta = b.mean - a.mean;
  return {count, a.mean + delta * (b.count / count),
          a.squares + b.squares + delta * delta * (a.count * (b.count / count))};
}

// Normalisation of one channel as one multiply-add: y = factor * x + offset.
template <class T>
struct Affine {
  T factor, offset;
};

template <class T>
HOST_DEVICE Affine<T> normalising_affine(Moments<T> moments, T eps, T weight, T bias, T scale,
                                         T shift) {
  const T variance = moments.squares / moments.count;
  const T rstd = T(1) / sqrt((variance < T(0) ? T(0) : variance) + eps);
  const T factor = rstd * weight;
  const T gain = T(1) + scale;
  return {factor * gain, fma(-moments.mean, factor, bias) * gain + shift};
}

SEPTET_ISA_END
}  // namespace septet
