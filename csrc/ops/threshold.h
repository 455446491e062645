// The arguments of the threshold quantile, checked and flattened: those of a step that writes
// nothing, a rank and a maximum.
#pragma once

#include "functors/select.h"
#include "ops/step.h"

namespace septet {

struct ThresholdTensors {
  StepTensors step;  // sample, model_output, uncond, table and row
  double ratio = 1;
  double maximum = 1;
  TensorView out;
};

struct ThresholdArgs {
  StepArgs step;
  int64_t samples = 0;
  int64_t rank = 0;   // of the lower neighbour of the quantile, from 0
  double weight = 0;  // of the upper one
  double maximum = 1;
  void* out = nullptr;
};

inline constexpr const char* kThresholdSchema =
    "threshold_quantile(Tensor sample, Tensor model_output, Tensor table, int row, "
    "Tensor? uncond_output, float ratio, float maximum, Tensor(a!) out) -> ()";

// Where the quantile lies between the sorted values, in the arithmetic of torch.quantile, which
// multiplies in the values' own type. It takes no more than 2^24 of them; beyond, float32 could not
// count them.
inline void plan_rank(double ratio, Dtype dtype, ThresholdArgs& args) {
  const int64_t last = args.step.layout.per_sample - 1;
  const bool wide = dtype == Dtype::float64 || last > (int64_t{1} << 24);
  const double position =
      wide ? ratio * static_cast<double>(last)
           : static_cast<double>(static_cast<float>(ratio) * static_cast<float>(last));
  args.rank = static_cast<int64_t>(position);
  args.weight = position - static_cast<double>(args.rank);
}

// Checks everything; throws std::invalid_argument.
inline ThresholdArgs plan_threshold(const ThresholdTensors& t) {
  const char* op = "threshold_quantile";
  const TensorView& sample = t.step.sample;
  ThresholdArgs args;
  require_floating(op, "sample", sample);
  require(sample.dim > 0, op, "sample must be [B, ...], got ", shape_text(sample));
  args.step.layout = require_layout(op, "sample", sample);
  args.step.sample = sample.data;
  args.samples = sample.size(0);
  const int64_t length = args.step.layout.per_sample;
  require(args.samples == 0 || (length > 0 && length < (int64_t{1} << 31)), op,
          "sample must have from 1 to 2**31 - 1 elements per sample, got ", length);
  plan_outputs(op, t.step, args.step);
  plan_table(op, t.step, args.step, [&](const auto& row) {
    for (int slot : row.read_slots) {
      require(slot == kCurrentOutput || slot == kUnused, op, "table row ", t.step.row,
              " reads slot ", slot, "; rows that combine stored outputs are not supported");
    }
  });
  require(t.ratio >= 0 && t.ratio <= 1, op, "ratio must be in [0, 1], got ", t.ratio);
  require(t.maximum > 0, op, "maximum must be positive, got ", t.maximum);
  require(t.out.dim == 1 && t.out.size(0) == args.samples && is_contiguous(t.out), op,
          "out must hold one number per sample, got ", shape_text(t.out));
  require_dtype(op, "out", t.out, accumulator_dtype(sample.dtype));
  require_device(op, "out", t.out, sample.device);
  if (args.samples > 0) plan_rank(t.ratio, sample.dtype, args);
  args.maximum = t.maximum;
  args.out = t.out.data;
  return args;
}

// Calls task(context, i) for every i in [0, count), perhaps at the same time; null means in order.
using ChunkTask = void (*)(void* context, int64_t i);
using RunChunks = void (*)(int64_t count, ChunkTask task, void* context);

// The bounds of samples [begin, end), each cut into `chunks` parts that `run` is given.
using ThresholdRange = void (*)(const ThresholdArgs& args, int64_t begin, int64_t end,
                                int64_t chunks, RunChunks run);

}  // namespace septet

SEPTET_DECLARE_PER_ISA(ThresholdRange threshold_range(Dtype dtype))
