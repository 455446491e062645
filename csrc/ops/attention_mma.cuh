// Attention in float16 and bfloat16 on tensor cores, after FlashAttention-2 (Dao 2023): a warp has
// 16 rows, whose logits become the left operand of the second product without leaving registers.
//
// 4 T S D operations per head; bytes are those of the operands, read once per 64 queries. The copy
// of the values runs while the logits are computed, that of the next keys during the second
// product. D is padded to kWidth in shared memory and registers.
#pragma once

#include "launch/mma.cuh"
#include "ops/attention_tile.cuh"

namespace septet {

template <class T, int kWidth>
struct MmaAttention {
  static constexpr int kTile = 64;
  static constexpr int kStride = kWidth + 8;  // rows begin in different banks
  static constexpr std::size_t kSharedBytes = (kAttentionRows + 2 * kTile) * kStride * sizeof(T);
  static_assert(kWidth % 16 == 0 && kTile == kAttentionRows);

  const AttentionArgs& args;
  const bool packs;  // every row consists of whole, aligned packs of 16 bytes
  const AttentionPlace place;
  const Tokens<T> query, key, value;
  T* const queries;
  T* const keys;
  T* const values;
  float results[kWidth / 8][4];
  float logits[kTile / 8][4];
  SoftmaxRow rows[2];  // rows g and g + 8 of the warp

  __device__ MmaAttention(const AttentionArgs& a, bool p, int chunks)
      : args(a),
        packs(p),
        place(attention_place(a, chunks, kWidth)),
        query(a.query, a.query, 0, a.queries, place),
        key(a.prefix_key, a.key, static_cast<int>(a.prefix), a.keys, place),
        value(a.prefix_value, a.value, static_cast<int>(a.prefix), a.keys, place),
        queries(dynamic_shared<T>()),
        keys(queries + kAttentionRows * kStride),
        values(keys + kTile * kStride) {}

  static __device__ int warp() { return static_cast<int>(threadIdx.x) / kWarpSize; }
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }

  // 64 tokens from `first` on, columns [column, column + kWidth); zeros where there is nothing.
  __device__ __forceinline__ void load(const Tokens<T>& tokens, int first, int column, T* to) {
    constexpr int kPacks = kWidth / 8;
    const int width = static_cast<int>(args.width);
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kPacks; i += kAttentionBlock) {
      const int token = first + i / kPacks, d = column + i % kPacks * 8;
      T* const target = to + i / kPacks * kStride + i % kPacks * 8;
      const bool present = token < tokens.count && d < width;
      const T* const source = present ? tokens.at(token) + d : tokens.rest;
      if (packs) {
        copy_async(target, source, present);
      } else {
        for (int j = 0; j < 8; ++j) target[j] = present && d + j < width ? source[j] : T{};
      }
    }
  }

  // logits += queries keys^T, of what lies in shared memory.
  __device__ __forceinline__ void multiply_logits() {
    const int matrix = lane() / 8, line = lane() % 8;
    SEPTET_UNROLL
    for (int k = 0; k < kWidth; k += 16) {
      std::uint32_t a[4];
      load_matrices<false>(a,
                           queries + (16 * warp() + lane() % 16) * kStride + k + lane() / 16 * 8);
      SEPTET_UNROLL
      for (int n = 0; n < kTile; n += 16) {
        std::uint32_t b[4];
        load_matrices<false>(b, keys + (n + matrix / 2 * 8 + line) * kStride + k + matrix % 2 * 8);
        multiply_matrices<T>(logits[n / 8], a, {b[0], b[1]});
        multiply_matrices<T>(logits[n / 8 + 1], a, {b[2], b[3]});
      }
    }
  }

  // Turns the logits of keys from `first` on into weights.
  __device__ __forceinline__ void weigh(int first) {
    const T* const bias = attention_bias<T>(args, place);
    SEPTET_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = place.row + 16 * warp() + lane() / 4 + 8 * half;
      float top = -INFINITY;
      SEPTET_UNROLL
      for (int n = 0; n < kTile / 8; ++n) {
        SEPTET_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int at = first + 8 * n + lane() % 4 * 2 + i;
          float& logit = logits[n][2 * half + i];
          logit = attention_logit(args, bias, row, at, logit);
          top = fmaxf(top, logit);
        }
      }
      float base;
      const float decay = rows[half].raise(row_maximum<4>(top), base);
      SEPTET_UNROLL
      for (int n = 0; n < kTile / 8; ++n) {
        SEPTET_UNROLL
        for (int i = 0; i < 2; ++i) {
          float& logit = logits[n][2 * half + i];
          logit = fast_exp2(logit - base);
          rows[half].sum += logit;
        }
      }
      SEPTET_UNROLL
      for (int n = 0; n < kWidth / 8; ++n) {
        results[n][2 * half] *= decay;
        results[n][2 * half + 1] *= decay;
      }
    }
  }

  // results += weights values
  __device__ __forceinline__ void multiply_values() {
    const int matrix = lane() / 8, line = lane() % 8;
    SEPTET_UNROLL
    for (int k = 0; k < kTile; k += 16) {
      const auto& left = logits[k / 8];
      const auto& right = logits[k / 8 + 1];
      const std::uint32_t a[4] = {pack_pair<T>(left[0], left[1]), pack_pair<T>(left[2], left[3]),
                                  pack_pair<T>(right[0], right[1]),
                                  pack_pair<T>(right[2], right[3])};
      SEPTET_UNROLL
      for (int n = 0; n < kWidth; n += 16) {
        std::uint32_t b[4];
        load_matrices<true>(b, values + (k + matrix % 2 * 8 + line) * kStride + n + matrix / 2 * 8);
        multiply_matrices<T>(results[n / 8], a, {b[0], b[1]});
        multiply_matrices<T>(results[n / 8 + 1], a, {b[2], b[3]});
      }
    }
  }

  __device__ __forceinline__ void store() {
    SEPTET_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = place.row + 16 * warp() + lane() / 4 + 8 * half;
      const float factor = softmax_factor(row_sum<4>(rows[half].sum));
      if (row >= args.queries) continue;
      T* const target =
          static_cast<T*>(args.out) +
          ((place.sample * args.queries + row) * args.heads + place.head) * args.width;
      SEPTET_UNROLL
      for (int n = 0; n < kWidth / 8; ++n) {
        const int d = place.column + 8 * n + lane() % 4 * 2;
        Pack<T, 2> pair;
        store_value(pair.v, results[n][2 * half] * factor);
        store_value(pair.v + 1, results[n][2 * half + 1] * factor);
        if (packs) {
          if (d < args.width) store_pack(target + d, pair);
        } else {
          for (int i = 0; i < 2; ++i) {
            if (d + i < args.width) target[d + i] = pair.v[i];
          }
        }
      }
    }
  }

  __device__ __forceinline__ void run(int chunks) {
    const int row = static_cast<int>(place.row);
    SEPTET_UNROLL
    for (int n = 0; n < kWidth / 8; ++n) {
      SEPTET_UNROLL
      for (int i = 0; i < 4; ++i) results[n][i] = 0.0f;
    }
    if (chunks == 1) {
      load(query, row, 0, queries);
      load(key, 0, 0, keys);
      commit_copies();
    }
    for (int first = 0; first < key.count; first += kTile) {
      SEPTET_UNROLL
      for (int n = 0; n < kTile / 8; ++n) {
        SEPTET_UNROLL
        for (int i = 0; i < 4; ++i) logits[n][i] = 0.0f;
      }
      if (chunks == 1) {
        wait_for_copies<0>();
        __syncthreads();  // the keys are there, and nobody needs the last values any more
        load(value, first, 0, values);
        commit_copies();
        multiply_logits();
        __syncthreads();
        if (first + kTile < key.count) load(key, first + kTile, 0, keys);
      } else {
        for (int chunk = 0; chunk < chunks; ++chunk) {
          __syncthreads();
          load(query, row, chunk * kWidth, queries);
          load(key, first, chunk * kWidth, keys);
          commit_copies();
          wait_for_copies<0>();
          __syncthreads();
          multiply_logits();
        }
        load(value, first, place.column, values);
        commit_copies();
      }
      commit_copies();  // the next keys; the values are in the group before
      weigh(first);
      wait_for_copies<1>();
      __syncthreads();
      multiply_values();
    }
    store();
  }
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kAttentionBlock)
    attention_mma_kernel(const __grid_constant__ AttentionArgs args, int chunks, bool packs) {
  MmaAttention<T, kWidth>(args, packs, chunks).run(chunks);
}

}  // namespace septet
