// A vector of N values with the operations of functors/scalar.h, for CPU kernels.
//
// It is built on the vector extension of GCC and Clang, which lowers any width to the instruction
// set at hand; intrinsics appear only where the extension has no operator.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "functors/half.h"
#include "functors/scalar.h"

namespace septet {
SEPTET_ISA_BEGIN

template <class T, int N>
struct NativeVector {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};

template <int... I>
struct Indices {};
template <int N, int... I>
struct IndicesUpTo : IndicesUpTo<N - 1, N - 1, I...> {};
template <int... I>
struct IndicesUpTo<0, I...> {
  using type = Indices<I...>;
};

template <class T, int N>
struct Lanes {
  using native = typename NativeVector<T, N>::type;
  using value_type = T;
  static constexpr int size = N;

  native v;

  Lanes() = default;
  HOST_DEVICE Lanes(native value) : v(value) {}
  HOST_DEVICE Lanes(T value) : v(broadcast(value, typename IndicesUpTo<N>::type{})) {}

  static HOST_DEVICE Lanes load(const T* address) {
    Lanes result;
    __builtin_memcpy(&result.v, address, sizeof(native));
    return result;
  }
  HOST_DEVICE void store(T* address) const { __builtin_memcpy(address, &v, sizeof(native)); }

  friend HOST_DEVICE Lanes operator+(Lanes a, Lanes b) { return a.v + b.v; }
  friend HOST_DEVICE Lanes operator-(Lanes a, Lanes b) { return a.v - b.v; }
  friend HOST_DEVICE Lanes operator*(Lanes a, Lanes b) { return a.v * b.v; }
  friend HOST_DEVICE Lanes operator/(Lanes a, Lanes b) { return a.v / b.v; }
  friend HOST_DEVICE Lanes operator&(Lanes a, Lanes b) { return a.v & b.v; }
  friend HOST_DEVICE Lanes operator^(Lanes a, Lanes b) { return a.v ^ b.v; }
  friend HOST_DEVICE Lanes operator-(Lanes a) { return -a.v; }
  friend HOST_DEVICE Lanes operator<<(Lanes a, int count) { return a.v << count; }
  friend HOST_DEVICE Lanes operator>>(Lanes a, int count) { return a.v >> count; }
  friend HOST_DEVICE auto operator<(Lanes a, Lanes b) { return a.v < b.v; }
  friend HOST_DEVICE auto operator>(Lanes a, Lanes b) { return a.v > b.v; }
  friend HOST_DEVICE auto operator==(Lanes a, Lanes b) { return a.v == b.v; }
  friend HOST_DEVICE auto operator!=(Lanes a, Lanes b) { return a.v != b.v; }

 private:
  template <int... I>
  static HOST_DEVICE native broadcast(T value, Indices<I...>) {
    return native{(static_cast<void>(I), value)...};
  }
};

template <int N>
struct BitsOf<Lanes<float, N>> {
  using type = Lanes<int32_t, N>;
};

template <class Mask, class T, int N>
HOST_DEVICE Lanes<T, N> select(Mask mask, Lanes<T, N> a, Lanes<T, N> b) {
  return mask ? a.v : b.v;
}

template <int N>
HOST_DEVICE Lanes<int32_t, N> as_bits(Lanes<float, N> a) {
  return (typename Lanes<int32_t, N>::native)a.v;
}
template <int N>
HOST_DEVICE Lanes<float, N> as_float(Lanes<int32_t, N> a) {
  return (typename Lanes<float, N>::native)a.v;
}
template <class I, int N>
HOST_DEVICE Lanes<float, N> to_value(Lanes<I, N> a) {
  return __builtin_convertvector(a.v, typename Lanes<float, N>::native);
}

template <int N>
HOST_DEVICE Lanes<int32_t, N> truncate(Lanes<float, N> a) {
  return __builtin_convertvector(a.v, typename Lanes<int32_t, N>::native);
}
template <int N>
HOST_DEVICE Lanes<int32_t, N> as_signed(Lanes<uint32_t, N> a) {
  return (typename Lanes<int32_t, N>::native)a.v;
}

// Applies f to pieces of the width of a machine register.
template <class Native, class Piece, class F>
HOST_DEVICE Native by_pieces(const Native& a, const Native& b, const Native& c, F f) {
  constexpr int kPieces = sizeof(Native) / sizeof(Piece);
  Piece pieces[3][kPieces];
  __builtin_memcpy(pieces[0], &a, sizeof(Native));
  __builtin_memcpy(pieces[1], &b, sizeof(Native));
  __builtin_memcpy(pieces[2], &c, sizeof(Native));
  for (int i = 0; i < kPieces; ++i) pieces[0][i] = f(pieces[0][i], pieces[1][i], pieces[2][i]);
  Native result;
  __builtin_memcpy(&result, pieces[0], sizeof(Native));
  return result;
}

template <class T, int N>
HOST_DEVICE Lanes<T, N> fma(Lanes<T, N> a, Lanes<T, N> b, Lanes<T, N> c) {
  using Native = typename Lanes<T, N>::native;
  [[maybe_unused]] constexpr bool kFloat = sizeof(T) == 4;
#if defined(__AVX512F__)
  if constexpr (sizeof(Native) == 64) {
    if constexpr (kFloat) {
      return (Native)_mm512_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v);
    } else {
      return (Native)_mm512_fmadd_pd((__m512d)a.v, (__m512d)b.v, (__m512d)c.v);
    }
  }
#endif
#if defined(__FMA__)
  if constexpr (sizeof(Native) % 32 == 0) {
    if constexpr (kFloat) {
      return by_pieces<Native, __m256>(
          a.v, b.v, c.v, [](__m256 x, __m256 y, __m256 z) { return _mm256_fmadd_ps(x, y, z); });
    } else {
      return by_pieces<Native, __m256d>(
          a.v, b.v, c.v, [](__m256d x, __m256d y, __m256d z) { return _mm256_fmadd_pd(x, y, z); });
    }
  }
#endif
  return by_pieces<Native, T>(a.v, b.v, c.v, [](T x, T y, T z) { return fma(x, y, z); });
}

template <class T, int N>
HOST_DEVICE Lanes<T, N> sqrt(Lanes<T, N> a) {
  using Native = typename Lanes<T, N>::native;
  [[maybe_unused]] constexpr bool kFloat = sizeof(T) == 4;
#if defined(__AVX512F__)
  if constexpr (sizeof(Native) == 64) {
    if constexpr (kFloat) {
      return (Native)_mm512_sqrt_ps((__m512)a.v);
    } else {
      return (Native)_mm512_sqrt_pd((__m512d)a.v);
    }
  }
#endif
#if defined(__AVX__)
  if constexpr (sizeof(Native) % 32 == 0) {
    if constexpr (kFloat) {
      return by_pieces<Native, __m256>(a.v, a.v, a.v,
                                       [](__m256 x, __m256, __m256) { return _mm256_sqrt_ps(x); });
    } else {
      return by_pieces<Native, __m256d>(
          a.v, a.v, a.v, [](__m256d x, __m256d, __m256d) { return _mm256_sqrt_pd(x); });
    }
  }
#endif
  return by_pieces<Native, T>(a.v, a.v, a.v, [](T x, T, T) { return sqrt(x); });
}

template <int N>
HOST_DEVICE Lanes<double, N> exp(Lanes<double, N> a) {
  return by_pieces<typename Lanes<double, N>::native, double>(
      a.v, a.v, a.v, [](double x, double, double) { return __builtin_exp(x); });
}

template <int N>
HOST_DEVICE Lanes<double, N> exp2_bounded(Lanes<double, N> a) {
  return exp(Lanes<double, N>(0.69314718055994530942) * a);
}

// maximum(a, b) = a > b ? a : b and minimum alike: b where one of them is NaN, as the instructions
// have it. The masked forms, with all lanes chosen, spare gcc a warning about its own header.
template <class T, int N>
HOST_DEVICE Lanes<T, N> maximum(Lanes<T, N> a, Lanes<T, N> b) {
  using Native [[maybe_unused]] = typename Lanes<T, N>::native;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4 && sizeof(Native) == 64) {
    return (Native)_mm512_maskz_max_ps(0xFFFF, (__m512)a.v, (__m512)b.v);
  }
#endif
#if defined(__AVX__)
  if constexpr (sizeof(T) == 4 && sizeof(Native) % 32 == 0) {
    return by_pieces<Native, __m256>(
        a.v, b.v, b.v, [](__m256 x, __m256 y, __m256) { return _mm256_max_ps(x, y); });
  }
#endif
  return a.v > b.v ? a.v : b.v;
}

template <class T, int N>
HOST_DEVICE Lanes<T, N> minimum(Lanes<T, N> a, Lanes<T, N> b) {
  using Native [[maybe_unused]] = typename Lanes<T, N>::native;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4 && sizeof(Native) == 64) {
    return (Native)_mm512_maskz_min_ps(0xFFFF, (__m512)a.v, (__m512)b.v);
  }
#endif
#if defined(__AVX__)
  if constexpr (sizeof(T) == 4 && sizeof(Native) % 32 == 0) {
    return by_pieces<Native, __m256>(
        a.v, b.v, b.v, [](__m256 x, __m256 y, __m256) { return _mm256_min_ps(x, y); });
  }
#endif
  return a.v < b.v ? a.v : b.v;
}

template <int N>
HOST_DEVICE void multiply_wide(Lanes<uint32_t, N> a, Lanes<uint32_t, N> b, Lanes<uint32_t, N>& high,
                               Lanes<uint32_t, N>& low) {
  using Wide = typename NativeVector<uint64_t, N / 2>::type;
  using Native = typename Lanes<uint32_t, N>::native;
  const Wide a2 = (Wide)a.v, b2 = (Wide)b.v;
#if defined(__AVX512F__)
  if constexpr (sizeof(Native) == 64) {
    const Wide even = (Wide)_mm512_mul_epu32((__m512i)a.v, (__m512i)b.v);
    const Wide odd = (Wide)_mm512_mul_epu32((__m512i)(a2 >> 32), (__m512i)(b2 >> 32));
    high.v = (Native)_mm512_mask_blend_epi32(0xAAAA, (__m512i)(even >> 32), (__m512i)odd);
    low.v = (Native)_mm512_mask_blend_epi32(0xAAAA, (__m512i)even, (__m512i)(odd << 32));
    return;
  }
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(Native) == 32) {
    const Wide even = (Wide)_mm256_mul_epu32((__m256i)a.v, (__m256i)b.v);
    const Wide odd = (Wide)_mm256_mul_epu32((__m256i)(a2 >> 32), (__m256i)(b2 >> 32));
    high.v = (Native)_mm256_blend_epi32((__m256i)(even >> 32), (__m256i)odd, 0xAA);
    low.v = (Native)_mm256_blend_epi32((__m256i)even, (__m256i)(odd << 32), 0xAA);
    return;
  }
#endif
  const Wide mask = Wide{} + 0xFFFFFFFFull;
  const Wide even = (a2 & mask) * (b2 & mask);
  const Wide odd = (a2 >> 32) * (b2 >> 32);
  high.v = (Native)((even >> 32) | (odd & ~mask));
  low.v = (Native)((even & mask) | (odd << 32));
}

// N words, each in the lower half of a 64-bit lane, which is where multiplication finds them: no
// product has to be sorted into place before the next one. The upper halves mean nothing.
template <int N>
struct SpreadWords {
  using native = typename NativeVector<uint64_t, N>::type;

  native v;

  SpreadWords() = default;
  HOST_DEVICE SpreadWords(native value) : v(value) {}
  HOST_DEVICE SpreadWords(uint32_t word) : v(native{} + word) {}

  friend HOST_DEVICE SpreadWords operator^(SpreadWords a, SpreadWords b) { return a.v ^ b.v; }
};

template <int N>
HOST_DEVICE void multiply_wide(SpreadWords<N> a, SpreadWords<N> b, SpreadWords<N>& high,
                               SpreadWords<N>& low) {
  using Native = typename SpreadWords<N>::native;
#if defined(__AVX512F__)
  if constexpr (sizeof(Native) == 64) {
    low.v = (Native)_mm512_mul_epu32((__m512i)a.v, (__m512i)b.v);
    high.v = low.v >> 32;
    return;
  }
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(Native) % 32 == 0) {
    low.v = by_pieces<Native, __m256i>(
        a.v, b.v, b.v, [](__m256i x, __m256i y, __m256i) { return _mm256_mul_epu32(x, y); });
    high.v = low.v >> 32;
    return;
  }
#endif
  const Native mask = Native{} + 0xFFFFFFFFull;
  low.v = (a.v & mask) * (b.v & mask);
  high.v = low.v >> 32;
}

// even0 odd0 even1 odd1 ...
template <int N>
HOST_DEVICE Lanes<uint32_t, 2 * N> interleave(SpreadWords<N> even, SpreadWords<N> odd) {
  using Native = typename SpreadWords<N>::native;
  const Native mask = Native{} + 0xFFFFFFFFull;
  return (typename Lanes<uint32_t, 2 * N>::native)((even.v & mask) | (odd.v << 32));
}

// out = a0 b0 c0 d0 a1 b1 c1 d1 ...
template <int N>
HOST_DEVICE void store_interleaved(const Lanes<float, N> (&columns)[4], float* out) {
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    const __m512 a = (__m512)columns[0].v, b = (__m512)columns[1].v;
    const __m512 c = (__m512)columns[2].v, d = (__m512)columns[3].v;
    const __m512 ab_low = _mm512_unpacklo_ps(a, b), ab_high = _mm512_unpackhi_ps(a, b);
    const __m512 cd_low = _mm512_unpacklo_ps(c, d), cd_high = _mm512_unpackhi_ps(c, d);
    // Quarter j of rows[k] is place 4 j + k of the result.
    const __m512 rows[4] = {
        _mm512_shuffle_ps(ab_low, cd_low, 0x44), _mm512_shuffle_ps(ab_low, cd_low, 0xEE),
        _mm512_shuffle_ps(ab_high, cd_high, 0x44), _mm512_shuffle_ps(ab_high, cd_high, 0xEE)};
    const __m512 first = _mm512_shuffle_f32x4(rows[0], rows[1], 0x44);
    const __m512 second = _mm512_shuffle_f32x4(rows[2], rows[3], 0x44);
    const __m512 third = _mm512_shuffle_f32x4(rows[0], rows[1], 0xEE);
    const __m512 fourth = _mm512_shuffle_f32x4(rows[2], rows[3], 0xEE);
    _mm512_storeu_ps(out, _mm512_shuffle_f32x4(first, second, 0x88));
    _mm512_storeu_ps(out + 16, _mm512_shuffle_f32x4(first, second, 0xDD));
    _mm512_storeu_ps(out + 32, _mm512_shuffle_f32x4(third, fourth, 0x88));
    _mm512_storeu_ps(out + 48, _mm512_shuffle_f32x4(third, fourth, 0xDD));
    return;
  }
#endif
#if defined(__AVX__)
  if constexpr (N % 8 == 0) {
    __m256 piece[4][N / 8];
    for (int k = 0; k < 4; ++k) __builtin_memcpy(piece[k], &columns[k].v, sizeof(columns[k].v));
    for (int i = 0; i < N / 8; ++i, out += 32) {
      const __m256 ab_low = _mm256_unpacklo_ps(piece[0][i], piece[1][i]);
      const __m256 ab_high = _mm256_unpackhi_ps(piece[0][i], piece[1][i]);
      const __m256 cd_low = _mm256_unpacklo_ps(piece[2][i], piece[3][i]);
      const __m256 cd_high = _mm256_unpackhi_ps(piece[2][i], piece[3][i]);
      const __m256 rows[4] = {
          _mm256_shuffle_ps(ab_low, cd_low, 0x44), _mm256_shuffle_ps(ab_low, cd_low, 0xEE),
          _mm256_shuffle_ps(ab_high, cd_high, 0x44), _mm256_shuffle_ps(ab_high, cd_high, 0xEE)};
      for (int k = 0; k < 4; ++k) {
        _mm_storeu_ps(out + 4 * k, _mm256_castps256_ps128(rows[k]));
        _mm_storeu_ps(out + 16 + 4 * k, _mm256_extractf128_ps(rows[k], 1));
      }
    }
    return;
  }
#endif
  float column[4][N];
  for (int k = 0; k < 4; ++k) columns[k].store(column[k]);
  for (int i = 0; i < N; ++i) {
    for (int k = 0; k < 4; ++k) out[4 * i + k] = column[k][i];
  }
}

#if defined(SEPTET_LANES)
inline constexpr int kLanes = SEPTET_LANES;
#else
inline constexpr int kLanes = 4;
#endif

// The vector of one register (or what the instruction set is told to treat as one).
template <class T>
using Vector = Lanes<T, static_cast<int>(kLanes * sizeof(float) / sizeof(T))>;

// Bulk conversion between storage and arithmetic type.
template <class T>
inline void convert_from(const T* from, accumulator_t<T>* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = load_value(from + i);
}
template <class T>
inline void convert_to(const accumulator_t<T>* from, T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) store_value(to + i, from[i]);
}

#if defined(__F16C__) && defined(__AVX__)
template <>
inline void convert_from<float16>(const float16* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(bits));
  }
  for (; i < count; ++i) to[i] = to_float(from[i]);
}
template <>
inline void convert_to<float16>(const float* from, float16* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i bits = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), bits);
  }
  for (; i < count; ++i) from_float(from[i], to[i]);
}
#endif

SEPTET_ISA_END
}  // namespace septet
