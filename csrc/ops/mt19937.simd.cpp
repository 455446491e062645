#include "ops/mt19937.h"

#include "launch/lanes.h"

namespace septet {
SEPTET_ISA_BEGIN
namespace {

using Words = Lanes<uint32_t, kLanes>;
using Floats = Lanes<float, kLanes>;

constexpr int64_t kN = kMt19937Words;

// Continues the sequence x[0..624) by `count` words, a multiple of 16. A vector depends on words
// at least 227 back, so it never needs its own lanes.
void extend(uint32_t* x, int64_t count) {
  for (int64_t k = 0; k < count; k += kLanes) {
    mt19937_next(Words::load(x + k), Words::load(x + k + 1), Words::load(x + k + kMt19937Middle))
        .store(x + k + kN);
  }
}

// Of 16 lanes, swaps the upper half of a with the lower half of b.
template <class T, int N>
HOST_DEVICE void exchange_halves(Lanes<T, N>& a, Lanes<T, N>& b) {
  if constexpr (N == 16) {
    const auto low =
        __builtin_shufflevector(a.v, b.v, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    b = __builtin_shufflevector(a.v, b.v, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30,
                                31);
    a = low;
  }
}

// A block has the words of 8 radii, then those of 8 angles; the cosines and sines replace them.
// With 16 lanes, two blocks fill a register of each.
constexpr int64_t kStep = kLanes == 16 ? 32 : 16;
constexpr int64_t kSecond = kStep / 2;

HOST_DEVICE void transform(float* values) {
  const auto* words = reinterpret_cast<const uint32_t*>(values);
  for (int64_t i = 0; i < kSecond; i += kLanes) {
    Words radius = Words::load(words + i), angle = Words::load(words + kSecond + i);
    exchange_halves(radius, angle);
    Floats cosine, sine;
    mt19937_box_muller(mt19937_temper(radius), mt19937_temper(angle), cosine, sine);
    exchange_halves(cosine, sine);
    cosine.store(values + i);
    sine.store(values + kSecond + i);
  }
}

}  // namespace

void mt19937_words(Mt19937& engine, void* out, int64_t count) {
  auto* words = static_cast<uint32_t*>(out);
  const int64_t unread = engine.left - 1 < count ? engine.left - 1 : count;
  __builtin_memcpy(words, engine.words + engine.next, unread * sizeof(uint32_t));
  engine.next += unread;
  engine.left -= unread;
  words += unread;
  count -= unread;
  if (count == 0) return;

  // torch always makes 624 words at once and keeps the last of these rounds. The first and the
  // last are made here beside their predecessors, those between in place.
  uint32_t round[2 * kN];
  __builtin_memcpy(round, engine.words, sizeof(engine.words));
  extend(round, kN);
  if (count > kN) {
    __builtin_memcpy(words, round + kN, sizeof(engine.words));
    const int64_t whole = (count - 1) / kN * kN;
    extend(words, whole - kN);
    words += whole;
    count -= whole;
    __builtin_memcpy(round, words - kN, sizeof(engine.words));
    extend(round, kN);
  }
  __builtin_memcpy(words, round + kN, count * sizeof(uint32_t));
  __builtin_memcpy(engine.words, round + kN, sizeof(engine.words));
  engine.next = count;
  engine.left = kN + 1 - count;
}

void mt19937_normals(float* values, int64_t count) {
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) transform(values + i);
  if (i < count) {
    float last[kStep] = {};
    __builtin_memcpy(last, values + i, kMt19937Block * sizeof(float));
    transform(last);
    __builtin_memcpy(values + i, last, kMt19937Block * sizeof(float));
  }
}

SEPTET_ISA_END
}  // namespace septet
