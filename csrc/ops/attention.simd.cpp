// Attention on the CPU. The lanes of a vector are queries: logits, weights and results lie
// transposed, as [keys or channels][queries], so that maximum and sum over the keys are plain
// vertical operations, keys and values enter as broadcast scalars, and no lane ever depends on
// another. Hence the same bits for every vector width and every division of the queries.
#include "ops/attention.h"

#include "launch/transpose.h"

namespace septet {
SEPTET_ISA_BEGIN
namespace {

using Floats = Vector<float>;

// Keys that are brought into arithmetic type, and whose weights are kept, at a time.
inline constexpr int kTile = 64;

// A panel is kVectors vectors of queries; a register block is that many times kBlock keys or
// channels. The sums of a block, a vector of each operand and a broadcast fill the registers.
#if defined(__AVX512F__)
inline constexpr int kVectors = 2, kBlock = 8;
#else
inline constexpr int kVectors = kLanes > 8 ? 1 : 2, kBlock = 6;
#endif
inline constexpr int kPanel = kVectors * kLanes;
static_assert(kPanel <= kTile, "the tile of keys also serves as a buffer for a panel of rows");

template <int kCount>
struct Constant {
  static constexpr int value = kCount;
};

// Calls f(first, Constant) for blocks of kBlock out of `count`, and for the smaller one that
// remains.
template <int kSmaller = kBlock - 1, class F>
void for_last_block(int64_t first, int64_t count, F f) {
  if constexpr (kSmaller > 0) {
    if (count == kSmaller) return f(first, Constant<kSmaller>{});
    for_last_block<kSmaller - 1>(first, count, f);
  }
}
template <class F>
void for_blocks(int64_t count, F f) {
  int64_t first = 0;
  for (; first + kBlock <= count; first += kBlock) f(first, Constant<kBlock>{});
  for_last_block(first, count - first, f);
}

// One part of the depth of the logits, [begin, end) of [0, width).
struct Depth {
  int64_t begin, end, width;
};

// logits[m][i] = sum over d of keys[m][d] * queries[d][i], in order of d within a part of the
// depth. The last part adds the bias, and `top` becomes the largest so far.
template <int M, int N>
void logits_block(const float* queries, const float* keys, int64_t key_stride, Depth depth,
                  const float* bias, float* logits, Floats (&top)[N]) {
  Floats sums[M][N];
  SEPTET_UNROLL
  for (int m = 0; m < M; ++m) {
    SEPTET_UNROLL
    for (int n = 0; n < N; ++n) sums[m][n] = Floats(0.0f);
  }
  for (int64_t d = depth.begin; d < depth.end; ++d) {
    Floats query[N];
    SEPTET_UNROLL
    for (int n = 0; n < N; ++n) query[n] = Floats::load(queries + d * kPanel + n * kLanes);
    SEPTET_UNROLL
    for (int m = 0; m < M; ++m) {
      const Floats key(keys[m * key_stride + d]);
      SEPTET_UNROLL
      for (int n = 0; n < N; ++n) sums[m][n] = fma(query[n], key, sums[m][n]);
    }
  }
  SEPTET_UNROLL
  for (int m = 0; m < M; ++m) {
    SEPTET_UNROLL
    for (int n = 0; n < N; ++n) {
      const int at = m * kPanel + n * kLanes;
      if (depth.begin > 0) sums[m][n] = sums[m][n] + Floats::load(logits + at);
      if (depth.end == depth.width) {
        if (bias != nullptr) sums[m][n] = sums[m][n] + Floats::load(bias + at);
        // a NaN is dropped here; its weight brings it back
        top[n] = maximum(sums[m][n], top[n]);
      }
      sums[m][n].store(logits + at);
    }
  }
}

// results[m][i] = results[m][i] * decay[i] + sum over j of values[j][m] * weights[j][i], the sum in
// order of j. It begins at zero, because one chain over all keys would gather rounding errors.
template <int M, int N>
void values_block(const float* weights, const float* values, int64_t value_stride, int64_t keys,
                  const Floats (&decay)[N], float* results) {
  Floats sums[M][N];
  SEPTET_UNROLL
  for (int m = 0; m < M; ++m) {
    SEPTET_UNROLL
    for (int n = 0; n < N; ++n) sums[m][n] = Floats(0.0f);
  }
  for (int64_t j = 0; j < keys; ++j) {
    Floats weight[N];
    SEPTET_UNROLL
    for (int n = 0; n < N; ++n) weight[n] = Floats::load(weights + j * kPanel + n * kLanes);
    SEPTET_UNROLL
    for (int m = 0; m < M; ++m) {
      const Floats value(values[j * value_stride + m]);
      SEPTET_UNROLL
      for (int n = 0; n < N; ++n) sums[m][n] = fma(weight[n], value, sums[m][n]);
    }
  }
  SEPTET_UNROLL
  for (int m = 0; m < M; ++m) {
    SEPTET_UNROLL
    for (int n = 0; n < N; ++n) {
      float* const at = results + m * kPanel + n * kLanes;
      fma(Floats::load(at), decay[n], sums[m][n]).store(at);
    }
  }
}

template <class T>
class AttentionTask {
 public:
  explicit AttentionTask(const AttentionArgs& args)
      : args_(args),
        rows_(args.task_rows),
        // a stride that is no power of two spreads the rows over the sets of the cache
        stride_((args.width + 15) / 16 * 16 + 16),
        depth_(depth_of(args.width)) {
    const int64_t rows = args.queries < rows_ ? args.queries : rows_;
    const int64_t lanes = (rows + kPanel - 1) / kPanel * kPanel;
    const int64_t sizes[] = {lanes * args.width, lanes * args.width, lanes,          lanes,
                             kTile * stride_,    kTile * stride_,    kTile * kPanel, kTile * kPanel,
                             kPanel * kTile};
    float** const parts[] = {&queries_, &results_, &top_,  &sum_,      &keys_,
                             &values_,  &weights_, &bias_, &bias_rows_};
    int64_t total = kAlignment;
    for (int64_t size : sizes) total += (size + kAlignment - 1) / kAlignment * kAlignment;
    memory_ = new float[static_cast<std::size_t>(total)];
    float* next = memory_ + (kAlignment - reinterpret_cast<std::uintptr_t>(memory_) /
                                              sizeof(float) % kAlignment);
    for (int i = 0; i < static_cast<int>(sizeof(sizes) / sizeof(*sizes)); ++i) {
      *parts[i] = next;
      next += (sizes[i] + kAlignment - 1) / kAlignment * kAlignment;
    }
  }
  AttentionTask(const AttentionTask&) = delete;
  AttentionTask& operator=(const AttentionTask&) = delete;
  ~AttentionTask() { delete[] memory_; }

  // Queries [first, first + rows_) of one head of one sample.
  void run(int64_t sample, int64_t head, int64_t first) {
    sample_ = sample;
    head_ = head;
    first_ = first;
    count_ = args_.queries - first < rows_ ? args_.queries - first : rows_;
    for (int64_t i = 0; i < count_; i += kPanel) load_queries(i);
    for (int64_t start = 0; start < args_.keys; start += kTile) {
      const int64_t keys = args_.keys - start < kTile ? args_.keys - start : kTile;
      load_tokens(args_.prefix_key, args_.key, start, keys, keys_);
      load_tokens(args_.prefix_value, args_.value, start, keys, values_);
      for (int64_t i = 0; i < count_; i += kPanel) {
        if (args_.bias != nullptr) load_bias(i, start, keys);
        if (kVectors > 1 && count_ - i <= kLanes) {
          attend<1>(i, keys);
        } else {
          attend<kVectors>(i, keys);
        }
      }
    }
    for (int64_t i = 0; i < count_; i += kPanel) store_results(i);
  }

 private:
  static constexpr int64_t kAlignment = 16;  // floats: a cache line
  static constexpr bool kDirect = sizeof(T) == sizeof(float);

  // Parts of equal size, as few as keep the queries of a panel in the first-level cache and a chain
  // of sums short.
  static int64_t depth_of(int64_t width) {
    constexpr int64_t kMost = 160;
    const int64_t parts = (width + kMost - 1) / kMost;
    return (width + parts - 1) / parts;
  }

  int64_t panel_rows(int64_t i) const { return count_ - i < kPanel ? count_ - i : kPanel; }

  // The queries of a panel, transposed and scaled; lanes without a query hold zeros.
  void load_queries(int64_t i) {
    float* const to = queries_ + i * args_.width;
    const int64_t rows = panel_rows(i);
    for (int64_t k = 0; rows < kPanel && k < args_.width * kPanel; ++k) to[k] = 0.0f;
    const T* source = static_cast<const T*>(args_.query.data) + args_.query.offset(sample_, head_) +
                      (first_ + i) * args_.query.token;
    if constexpr (kDirect) {
      transpose(source, args_.query.token, rows, args_.width, to, kPanel);
    } else {
      for (int64_t r = 0; r < rows; ++r) {
        convert_from(source + r * args_.query.token, keys_ + r * stride_, args_.width);
      }
      transpose(keys_, stride_, rows, args_.width, to, kPanel);
    }
    const Floats scale(args_.scale);
    for (int64_t k = 0; k < args_.width * kPanel; k += kLanes) {
      (Floats::load(to + k) * scale).store(to + k);
      Floats(0.0f).store(results_ + i * args_.width + k);
    }
    for (int k = 0; k < kPanel; ++k) {
      top_[i + k] = -__builtin_inff();
      sum_[i + k] = 0.0f;
    }
  }

  // Tokens [start, start + count) of the prefix and what follows it.
  void load_tokens(const TokenView& prefix, const TokenView& rest, int64_t start, int64_t count,
                   float* to) const {
    for (int64_t j = start; j < start + count; ++j, to += stride_) {
      const bool ahead = j < args_.prefix;
      const TokenView& view = ahead ? prefix : rest;
      const int64_t token = ahead ? j : j - args_.prefix;
      convert_from(
          static_cast<const T*>(view.data) + view.offset(sample_, head_) + token * view.token, to,
          args_.width);
    }
  }

  // The bias of a panel as [keys][queries], in units of ln 2.
  void load_bias(int64_t i, int64_t start, int64_t keys) {
    const T* source = static_cast<const T*>(args_.bias) + sample_ * args_.bias_sample +
                      head_ * args_.bias_head + (first_ + i) * args_.bias_query +
                      start * args_.bias_key;
    const int64_t rows = args_.bias_query == 0 ? 1 : panel_rows(i);
    for (int64_t r = 0; r < rows; ++r) {
      float* const to = bias_rows_ + r * kTile;
      if (args_.bias_key == 1) {
        convert_from(source + r * args_.bias_query, to, keys);
      } else {
        for (int64_t j = 0; j < keys; ++j) {
          to[j] = load_value(source + r * args_.bias_query + j * args_.bias_key);
        }
      }
      for (int64_t j = 0; j < keys; ++j) to[j] *= static_cast<float>(kLog2E);
    }
    if (args_.bias_query != 0) return transpose(bias_rows_, kTile, rows, keys, bias_, kPanel);
    for (int64_t j = 0; j < keys; ++j) {
      for (int k = 0; k < kPanel; k += kLanes) Floats(bias_rows_[j]).store(bias_ + j * kPanel + k);
    }
  }

  // Lets N vectors of queries from i on attend to the keys of the tile.
  template <int N>
  void attend(int64_t i, int64_t keys) {
    Floats old_top[N], top[N], sum[N], decay[N];
    SEPTET_UNROLL
    for (int n = 0; n < N; ++n) top[n] = old_top[n] = Floats::load(top_ + i + n * kLanes);
    for (int64_t d = 0; d < args_.width; d += depth_) {
      const Depth depth{d, d + depth_ < args_.width ? d + depth_ : args_.width, args_.width};
      for_blocks(keys, [&](int64_t j, auto block) {
        const float* const bias = args_.bias != nullptr ? bias_ + j * kPanel : nullptr;
        logits_block<block.value, N>(queries_ + i * args_.width, keys_ + j * stride_, stride_,
                                     depth, bias, weights_ + j * kPanel, top);
      });
    }
    SEPTET_UNROLL
    for (int n = 0; n < N; ++n) {
      top[n].store(top_ + i + n * kLanes);
      top[n] = softmax_base(top[n]);
      decay[n] = softmax_weight(old_top[n] - top[n]);
      sum[n] = Floats(0.0f);
    }
    for (int64_t j = 0; j < keys; ++j) {
      SEPTET_UNROLL
      for (int n = 0; n < N; ++n) {
        float* const at = weights_ + j * kPanel + n * kLanes;
        const Floats weight = softmax_weight(Floats::load(at) - top[n]);
        weight.store(at);
        sum[n] = sum[n] + weight;
      }
    }
    SEPTET_UNROLL
    for (int n = 0; n < N; ++n) {
      float* const at = sum_ + i + n * kLanes;
      fma(Floats::load(at), decay[n], sum[n]).store(at);
    }
    for_blocks(args_.width, [&](int64_t c, auto block) {
      values_block<block.value, N>(weights_, values_ + c, stride_, keys, decay,
                                   results_ + i * args_.width + c * kPanel);
    });
  }

  void store_results(int64_t i) {
    float* const results = results_ + i * args_.width;
    for (int k = 0; k < kPanel; k += kLanes) {
      const Floats factor = softmax_factor(Floats::load(sum_ + i + k));
      for (int64_t c = k; c < args_.width * kPanel; c += kPanel) {
        (Floats::load(results + c) * factor).store(results + c);
      }
    }
    const int64_t rows = panel_rows(i), token = args_.heads * args_.width;
    T* const target = static_cast<T*>(args_.out) +
                      ((sample_ * args_.queries + first_ + i) * args_.heads + head_) * args_.width;
    if constexpr (kDirect) {
      transpose(results, kPanel, args_.width, rows, target, token);
    } else {
      transpose(results, kPanel, args_.width, rows, keys_, stride_);
      for (int64_t r = 0; r < rows; ++r) {
        convert_to(keys_ + r * stride_, target + r * token, args_.width);
      }
    }
  }

  const AttentionArgs& args_;
  const int64_t rows_, stride_, depth_;
  float* memory_ = nullptr;
  float *queries_, *results_;  // panels of [D][kPanel]
  float *top_, *sum_;          // per query: largest logit, sum of weights
  float *keys_, *values_;      // [kTile][stride_]
  float* weights_;             // [kTile][kPanel]: logits, then weights
  float *bias_, *bias_rows_;   // [kTile][kPanel], [kPanel][kTile]
  int64_t sample_ = 0, head_ = 0, first_ = 0, count_ = 0;
};

template <class T>
void attend_to(const AttentionArgs& args, int64_t begin, int64_t end) {
  const int64_t rows = args.task_rows;
  const int64_t per_head = (args.queries + rows - 1) / rows;
  AttentionTask<T> task(args);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t head = i / per_head;
    task.run(head / args.heads, head % args.heads, i % per_head * rows);
  }
}

}  // namespace

AttentionRange attention_range(Dtype dtype) {
  switch (dtype) {
    case Dtype::float16:
      return attend_to<float16>;
    case Dtype::bfloat16:
      return attend_to<bfloat16>;
    default:
      return attend_to<float>;
  }
}

SEPTET_ISA_END
}  // namespace septet
