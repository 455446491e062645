// Attention on the ordinary units of a GPU: float32, and the half precisions before compute
// capability 8.0. A thread has 4 rows, and of them every eighth key and column.
#pragma once

#include "ops/attention_tile.cuh"

namespace septet {

template <class T, int kWidth>
struct FmaAttention {
  static constexpr int kTile = 32;
  static constexpr int kRowsPerThread = 4, kLanesPerRow = 8;
  static constexpr int kStride = kWidth + 4;  // rows begin in different banks, aligned to packs
  static constexpr int kWeightStride = kTile + 4;
  static constexpr int kKeys = kTile / kLanesPerRow, kColumns = kWidth / kLanesPerRow;
  static constexpr std::size_t kSharedBytes =
      ((kAttentionRows + kTile) * kStride + kAttentionRows * kWeightStride) * sizeof(float);

  const AttentionArgs& args;
  const AttentionPlace place;
  const Tokens<T> query, key, value;
  float* const queries;
  float* const tokens;  // keys, then values
  float* const weights;
  float results[kRowsPerThread][kColumns];
  float logits[kRowsPerThread][kKeys];
  SoftmaxRow rows[kRowsPerThread];

  __device__ FmaAttention(const AttentionArgs& a, int chunks)
      : args(a),
        place(attention_place(a, chunks, kWidth)),
        query(a.query, a.query, 0, a.queries, place),
        key(a.prefix_key, a.key, static_cast<int>(a.prefix), a.keys, place),
        value(a.prefix_value, a.value, static_cast<int>(a.prefix), a.keys, place),
        queries(dynamic_shared<float>()),
        tokens(queries + kAttentionRows * kStride),
        weights(tokens + kTile * kStride) {}

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kLanesPerRow; }
  static __device__ int first_row() {
    return static_cast<int>(threadIdx.x) / kLanesPerRow * kRowsPerThread;
  }

  // `count` tokens from `first` on, columns [column, column + kWidth); zeros where there is
  // nothing.
  __device__ __forceinline__ void load(const Tokens<T>& source, int first, int count, int column,
                                       float* to) {
    for (int i = static_cast<int>(threadIdx.x); i < count * kWidth; i += kAttentionBlock) {
      const int token = first + i / kWidth, d = column + i % kWidth;
      const bool present = token < source.count && d < args.width;
      to[i / kWidth * kStride + i % kWidth] = present ? load_value(source.at(token) + d) : 0.0f;
    }
  }

  __device__ __forceinline__ void multiply_logits() {
    for (int d = 0; d < kWidth; d += 4) {
      Pack<float, 4> q[kRowsPerThread], k[kKeys];
      SEPTET_UNROLL
      for (int r = 0; r < kRowsPerThread; ++r) {
        q[r] = load_pack<4>(queries + (first_row() + r) * kStride + d);
      }
      SEPTET_UNROLL
      for (int c = 0; c < kKeys; ++c) {
        k[c] = load_pack<4>(tokens + (lane() + kLanesPerRow * c) * kStride + d);
      }
      SEPTET_UNROLL
      for (int i = 0; i < 4; ++i) {
        SEPTET_UNROLL
        for (int r = 0; r < kRowsPerThread; ++r) {
          SEPTET_UNROLL
          for (int c = 0; c < kKeys; ++c) logits[r][c] = fma(q[r].v[i], k[c].v[i], logits[r][c]);
        }
      }
    }
  }

  // Turns the logits of keys from `first` on into weights in shared memory.
  __device__ __forceinline__ void weigh(int first) {
    const T* const bias = attention_bias<T>(args, place);
    SEPTET_UNROLL
    for (int r = 0; r < kRowsPerThread; ++r) {
      float top = -INFINITY;
      SEPTET_UNROLL
      for (int c = 0; c < kKeys; ++c) {
        logits[r][c] = attention_logit(args, bias, place.row + first_row() + r,
                                       first + lane() + kLanesPerRow * c, logits[r][c]);
        top = fmaxf(top, logits[r][c]);
      }
      float base;
      const float decay = rows[r].raise(row_maximum<kLanesPerRow>(top), base);
      SEPTET_UNROLL
      for (int c = 0; c < kKeys; ++c) {
        const float weight = fast_exp2(logits[r][c] - base);
        rows[r].sum += weight;
        weights[(first_row() + r) * kWeightStride + lane() + kLanesPerRow * c] = weight;
      }
      SEPTET_UNROLL
      for (int c = 0; c < kColumns; ++c) results[r][c] *= decay;
    }
  }

  __device__ __forceinline__ void multiply_values() {
    for (int j = 0; j < kTile; j += 4) {
      Pack<float, 4> w[kRowsPerThread];
      SEPTET_UNROLL
      for (int r = 0; r < kRowsPerThread; ++r) {
        w[r] = load_pack<4>(weights + (first_row() + r) * kWeightStride + j);
      }
      SEPTET_UNROLL
      for (int i = 0; i < 4; ++i) {
        SEPTET_UNROLL
        for (int c = 0; c < kColumns; ++c) {
          const float v = tokens[(j + i) * kStride + lane() + kLanesPerRow * c];
          SEPTET_UNROLL
          for (int r = 0; r < kRowsPerThread; ++r) results[r][c] = fma(w[r].v[i], v, results[r][c]);
        }
      }
    }
  }

  __device__ __forceinline__ void store() {
    SEPTET_UNROLL
    for (int r = 0; r < kRowsPerThread; ++r) {
      const float factor = softmax_factor(row_sum<kLanesPerRow>(rows[r].sum));
      const std::int64_t row = place.row + first_row() + r;
      if (row >= args.queries) continue;
      T* const target =
          static_cast<T*>(args.out) +
          ((place.sample * args.queries + row) * args.heads + place.head) * args.width;
      SEPTET_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const int d = place.column + lane() + kLanesPerRow * c;
        if (d < args.width) store_value(target + d, results[r][c] * factor);
      }
    }
  }

  __device__ __forceinline__ void run(int chunks) {
    const int row = static_cast<int>(place.row);
    SEPTET_UNROLL
    for (int r = 0; r < kRowsPerThread; ++r) {
      SEPTET_UNROLL
      for (int c = 0; c < kColumns; ++c) results[r][c] = 0.0f;
    }
    if (chunks == 1) load(query, row, kAttentionRows, 0, queries);
    for (int first = 0; first < key.count; first += kTile) {
      SEPTET_UNROLL
      for (int r = 0; r < kRowsPerThread; ++r) {
        SEPTET_UNROLL
        for (int c = 0; c < kKeys; ++c) logits[r][c] = 0.0f;
      }
      for (int chunk = 0; chunk < chunks; ++chunk) {
        __syncthreads();  // nobody needs what lies there any more
        if (chunks > 1) load(query, row, kAttentionRows, chunk * kWidth, queries);
        load(key, first, kTile, chunk * kWidth, tokens);
        __syncthreads();
        multiply_logits();
      }
      weigh(first);
      __syncthreads();
      load(value, first, kTile, place.column, tokens);
      __syncthreads();
      multiply_values();
    }
    store();
  }
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kAttentionBlock)
    attention_fma_kernel(const __grid_constant__ AttentionArgs args, int chunks) {
  FmaAttention<T, kWidth>(args, chunks).run(chunks);
}

}  // namespace septet
