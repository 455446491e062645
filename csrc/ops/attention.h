// Attention: arguments, checked and flattened.
#pragma once

#include <algorithm>
#include <cmath>

#include "functors/attention.h"
#include "launch/isa.h"
#include "ops/checks.h"

namespace septet {

struct AttentionTensors {
  TensorView query, key, value, bias, prefix_key, prefix_value, out;
  double scale = 1;
};

// [B, tokens, H, D] with D dense; strides in elements.
struct TokenView {
  const void* data = nullptr;
  int64_t sample = 0, token = 0, head = 0;

  HOST_DEVICE int64_t offset(int64_t b, int64_t h) const { return b * sample + h * head; }
};

struct AttentionArgs {
  TokenView query, key, value, prefix_key, prefix_value;
  void* out = nullptr;         // [B, T, H, D], contiguous
  const void* bias = nullptr;  // [B, H, T, P + S]
  int64_t bias_sample = 0, bias_head = 0, bias_query = 0, bias_key = 0;
  int64_t samples = 0, heads = 0, queries = 0;
  int64_t prefix = 0;     // P
  int64_t keys = 0;       // P + S
  int64_t width = 0;      // D
  float scale = 1;        // for logits in units of ln 2
  int64_t task_rows = 1;  // queries of a task of the CPU kernel
};

inline constexpr const char* kAttentionSchema =
    "attention(Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? prefix_key, "
    "Tensor? prefix_value, float scale, Tensor(a!) out) -> ()";

// `view` must be [B, any, H, D] beside `query`.
inline TokenView require_tokens(const char* op, const char* name, const TensorView& view,
                                const TensorView& query) {
  const bool fits = view.dim == 4 && view.size(0) == query.size(0) &&
                    view.size(2) == query.size(2) && view.size(3) == query.size(3);
  require(fits, op, name, " must be [", query.size(0), ", tokens, ", query.size(2), ", ",
          query.size(3), "] beside query, got ", shape_text(view));
  require_dtype(op, name, view, query.dtype);
  require_device(op, name, view, query.device);
  require(view.strides[3] == 1 || view.size(3) == 1 || view.numel() == 0, op, name,
          " must have stride 1 in its last dimension, got ", view.strides[3]);
  return {view.data, view.strides[0], view.strides[1], view.strides[2]};
}

inline void plan_prefix(const char* op, const AttentionTensors& t, AttentionArgs& args) {
  require(t.prefix_key.present == t.prefix_value.present, op,
          "prefix_key and prefix_value must be given together");
  if (!t.prefix_key.present) return;
  args.prefix_key = require_tokens(op, "prefix_key", t.prefix_key, t.query);
  args.prefix_value = require_tokens(op, "prefix_value", t.prefix_value, t.query);
  args.prefix = t.prefix_key.size(1);
  require(t.prefix_value.size(1) == args.prefix, op, "prefix_value must have the ", args.prefix,
          " tokens of prefix_key, got ", t.prefix_value.size(1));
}

inline void plan_bias(const char* op, const TensorView& bias, const TensorView& query,
                      AttentionArgs& args) {
  if (!bias.present) return;
  const bool fits = bias.dim == 4 && bias.size(0) == args.samples && bias.size(1) == args.heads &&
                    bias.size(2) == args.queries && bias.size(3) == args.keys;
  require(fits, op, "bias must be [", args.samples, ", ", args.heads, ", ", args.queries, ", ",
          args.keys, "], got ", shape_text(bias));
  require_dtype(op, "bias", bias, query.dtype);
  require_device(op, "bias", bias, query.device);
  args.bias = bias.data;
  args.bias_sample = bias.strides[0];
  args.bias_head = bias.strides[1];
  args.bias_query = bias.strides[2];
  args.bias_key = bias.strides[3];
}

// Checks everything; throws std::invalid_argument.
inline AttentionArgs plan_attention(const AttentionTensors& t) {
  const char* op = "attention";
  require(is_floating(t.query.dtype) && t.query.dtype != Dtype::float64, op,
          "query must be float32, float16 or bfloat16, got ", dtype_name(t.query.dtype));
  require(t.query.dim == 4 && t.query.size(3) > 0, op, "query must be [B, T, H, D], got ",
          shape_text(t.query));
  AttentionArgs args;
  args.query = require_tokens(op, "query", t.query, t.query);
  args.key = require_tokens(op, "key", t.key, t.query);
  args.value = require_tokens(op, "value", t.value, t.query);
  require(t.key.size(1) == t.value.size(1), op, "value must have the ", t.key.size(1),
          " tokens of key, got ", t.value.size(1));
  plan_prefix(op, t, args);
  args.samples = t.query.size(0);
  args.queries = t.query.size(1);
  args.heads = t.query.size(2);
  args.width = t.query.size(3);
  args.keys = args.prefix + t.key.size(1);
  require(args.keys > 0, op, "key must have at least one token");
  plan_bias(op, t.bias, t.query, args);
  require(std::isfinite(t.scale), op, "scale must be finite, got ", t.scale);
  args.scale = static_cast<float>(t.scale * kLog2E);
  bool same = t.out.dim == 4;
  for (int64_t i = 0; same && i < 4; ++i) same = t.out.size(i) == t.query.size(i);
  require(same && is_contiguous(t.out), op, "out must be contiguous, of the shape of query, got ",
          shape_text(t.out));
  require_dtype(op, "out", t.out, t.query.dtype);
  require_device(op, "out", t.out, t.query.device);
  args.out = t.out.data;
  return args;
}

// A task of the CPU kernel is a run of queries of one head of one sample. It keeps them and their
// unfinished results in the second-level cache while the keys pass by. Every task reads all keys,
// so tasks are as long as that allows, unless some threads would have none or the last ones.
inline int64_t attention_task_rows(const AttentionArgs& args, int64_t threads) {
  constexpr int64_t kElements = 65536, kFewest = 32, kMost = 256, kManyTasks = 8;
  const auto rounded = [](int64_t rows) { return (rows + kFewest - 1) / kFewest * kFewest; };
  const int64_t heads = args.samples * args.heads;
  int64_t rows = std::clamp(kElements / args.width / kFewest * kFewest, kFewest, kMost);
  const auto tasks = [&] { return heads * ((args.queries + rows - 1) / rows); };
  while (tasks() % threads != 0 && tasks() < kManyTasks * threads) {
    const int64_t most = std::min(rows, args.queries);
    if (most <= kFewest) break;
    rows = rounded(most / 2);
  }
  return rows;
}

inline int64_t attention_tasks(const AttentionArgs& args) {
  return args.samples * args.heads * ((args.queries + args.task_rows - 1) / args.task_rows);
}

// Runs tasks [begin, end).
using AttentionRange = void (*)(const AttentionArgs& args, int64_t begin, int64_t end);

}  // namespace septet

SEPTET_DECLARE_PER_ISA(AttentionRange attention_range(Dtype dtype))
