// What the two CUDA kernels of attention share: which block does what, how tokens come into shared
// memory, and the running softmax of a row whose logits are spread over a few neighbouring lanes.
//
// A block has 64 queries of one head of one sample, and one chunk of the columns of the result. It
// walks over the keys in tiles. Where D is wider than a chunk, the logits are summed over chunks of
// D as well, and each chunk of the result computes them anew.
#pragma once

#include "functors/half.h"
#include "launch/cuda.cuh"
#include "ops/attention.h"

namespace septet {

constexpr int kAttentionBlock = 128;
constexpr int kAttentionRows = 64;

struct AttentionPlace {
  std::int64_t sample, head, row;
  int column;  // first of the chunk
};

__device__ __forceinline__ AttentionPlace attention_place(const AttentionArgs& args, int chunks,
                                                          int width) {
  std::int64_t rest = blockIdx.x;
  AttentionPlace place;
  place.column = static_cast<int>(rest % chunks) * width;
  rest /= chunks;
  const std::int64_t row_blocks = (args.queries + kAttentionRows - 1) / kAttentionRows;
  place.row = rest % row_blocks * kAttentionRows;
  rest /= row_blocks;
  place.head = rest % args.heads;
  place.sample = rest / args.heads;
  return place;
}

// The tokens of one head of one sample: `prefix` of them, then the rest.
template <class T>
struct Tokens {
  const T* ahead;
  const T* rest;
  std::int64_t ahead_stride, rest_stride;
  int prefix, count;

  __device__ Tokens(const TokenView& prefix_view, const TokenView& view, int prefix_count,
                    std::int64_t all, const AttentionPlace& place)
      : ahead(static_cast<const T*>(prefix_view.data) +
              prefix_view.offset(place.sample, place.head)),
        rest(static_cast<const T*>(view.data) + view.offset(place.sample, place.head)),
        ahead_stride(prefix_view.token),
        rest_stride(view.token),
        prefix(prefix_count),
        count(static_cast<int>(all)) {}

  __device__ const T* at(int token) const {
    return token < prefix ? ahead + token * ahead_stride : rest + (token - prefix) * rest_stride;
  }
};

// The running softmax of one row, in every lane that holds a part of it.
struct SoftmaxRow {
  float top = -INFINITY;
  float sum = 0.0f;  // over the keys of this lane

  // Takes the largest logit of a tile; returns what earlier results are multiplied by. `base`
  // becomes what is subtracted from the logits.
  __device__ __forceinline__ float raise(float tile_top, float& base) {
    const float old = top;
    top = fmaxf(top, tile_top);
    base = softmax_base(top);
    const float decay = fast_exp2(old - base);
    sum *= decay;
    return decay;
  }
};

// Over the lanes that differ in the bits below kLanesPerRow.
template <int kLanesPerRow>
__device__ __forceinline__ float row_maximum(float value) {
  SEPTET_UNROLL
  for (int lane = 1; lane < kLanesPerRow; lane *= 2) value = fmaxf(value, shuffle_xor(value, lane));
  return value;
}
template <int kLanesPerRow>
__device__ __forceinline__ float row_sum(float value) {
  SEPTET_UNROLL
  for (int lane = 1; lane < kLanesPerRow; lane *= 2) value += shuffle_xor(value, lane);
  return value;
}

// Scales a product, adds the bias, and excludes keys that do not exist.
template <class T>
__device__ __forceinline__ float attention_logit(const AttentionArgs& args, const T* bias,
                                                 std::int64_t row, int key, float product) {
  if (key >= args.keys) return -INFINITY;
  if (bias == nullptr || row >= args.queries) return product * args.scale;
  const float extra = load_value(bias + row * args.bias_query + key * args.bias_key);
  return fma(product, args.scale, extra * static_cast<float>(kLog2E));
}

// The bias of one head of one sample, or null.
template <class T>
__device__ __forceinline__ const T* attention_bias(const AttentionArgs& args,
                                                   const AttentionPlace& place) {
  if (args.bias == nullptr) return nullptr;
  return static_cast<const T*>(args.bias) + place.sample * args.bias_sample +
         place.head * args.bias_head;
}

}  // namespace septet
