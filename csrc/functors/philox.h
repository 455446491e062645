// Philox4x32-10 and the normal numbers made from it.
//
// Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The
// Box-Muller step is curand's, so that a CUDA generator of torch can be continued.
#pragma once

#include "functors/math.h"
#include "functors/scalar.h"

namespace septet {
SEPTET_ISA_BEGIN

// The four words of one Philox block; W is uint32_t or a vector of them.
template <class W>
struct PhiloxBlock {
  W x, y, z, w;
};

// Ten rounds; the key words may differ from lane to lane.
template <class W, class Key>
HOST_DEVICE PhiloxBlock<W> philox4x32(PhiloxBlock<W> counter, Key key0, Key key1) {
  SEPTET_UNROLL
  for (int round = 0; round < 10; ++round) {
    W high0, low0, high1, low1;
    multiply_wide(counter.x, W(0xD2511F53u), high0, low0);
    multiply_wide(counter.z, W(0xCD9E8D57u), high1, low1);
    counter = {high1 ^ counter.y ^ W(key0), low1, high0 ^ counter.w ^ W(key1), low0};
    key0 = key0 + Key(0x9E3779B9u);
    key1 = key1 + Key(0xBB67AE85u);
  }
  return counter;
}

// Same bits on every device.
struct PortableMath {
  template <class V>
  static HOST_DEVICE V log(V x) {
    return septet::log(x);
  }
  template <class V>
  static HOST_DEVICE void sincos(V x, V& sine, V& cosine) {
    septet::sincos(x, sine, cosine);
  }
};

// Two words to two normals, sine first. The angle spans one turn; the smallest radius argument is
// 2^-33, so the logarithm is finite.
template <class Math, class V, class W>
HOST_DEVICE void box_muller(W radius_word, W angle_word, V& first, V& second) {
  const V u = fma(to_value(radius_word), V(0x1p-32f), V(0x1p-33f));
  const V angle = fma(to_value(angle_word), V(1.4629180792671596e-9f), V(7.314590396335798e-10f));
  const V radius = sqrt(V(-2.0f) * Math::template log<V>(u));
  V sine, cosine;
  Math::template sincos<V>(angle, sine, cosine);
  first = radius * sine;
  second = radius * cosine;
}

// Where the normal of one logical element comes from.
struct PhiloxPlace {
  uint64_t index;   // counter words x and y
  uint64_t thread;  // counter words z and w
  uint32_t component;
};

// threads > 0: the layout of torch.randn on a CUDA device (each thread draws four normals, which
// land one launch apart). threads == 0: four adjacent elements share a block.
HOST_DEVICE PhiloxPlace philox_place(uint64_t element, uint64_t offset, uint64_t threads) {
  if (threads == 0) {
    return {offset / 4 + element / 4, 0, static_cast<uint32_t>(element % 4)};
  }
  const uint64_t wave = 4 * threads;
  const uint64_t place = element % wave;
  return {offset / 4 + element / wave, place % threads, static_cast<uint32_t>(place / threads)};
}

SEPTET_ISA_END
}  // namespace septet
