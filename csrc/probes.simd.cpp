#include "probes.h"

#include "launch/lanes.h"

namespace septet {
SEPTET_ISA_BEGIN
namespace {

// Enough independent chains to hide the latency of a multiply-add, few enough for the registers.
// Where a vector is wider than a register, each chain is already two.
#if defined(__AVX512F__)
constexpr int kChains = 12;
#else
constexpr int kChains = kLanes > 8 ? 6 : 12;
#endif

template <class V>
HOST_DEVICE V accumulate(V a, V b, V c) {
#if defined(__FMA__) || defined(__aarch64__)
  return fma(a, b, c);
#else
  return a * b + c;  // this instruction set has no fma; the C library's is no measure of it
#endif
}

// Not an array: gcc would keep that in memory.
template <class V, int N>
struct Chains {
  V first = V(0.25f * N);
  Chains<V, N - 1> rest;

  HOST_DEVICE void step(V factor, V term) {
    first = accumulate(first, factor, term);
    rest.step(factor, term);
  }
  HOST_DEVICE V sum() const { return first + rest.sum(); }
};
template <class V>
struct Chains<V, 0> {
  HOST_DEVICE void step(V, V) {}
  HOST_DEVICE V sum() const { return V(0.0f); }
};

}  // namespace

int64_t multiply_add(int64_t rounds, float* result) {
  using V = Vector<float>;
  Chains<V, kChains> chains;
  const V factor(0.5f + *result * 1e-9f), term(1.0f);
  for (int64_t i = 0; i < rounds; ++i) chains.step(factor, term);
  float lanes[V::size];
  chains.sum().store(lanes);
  for (int k = 0; k < V::size; ++k) *result += lanes[k] * 1e-9f;
  return 2 * rounds * kChains * V::size;
}

SEPTET_ISA_END
}  // namespace septet
