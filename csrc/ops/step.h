// The arguments of the sampler step, checked and flattened. Shared by torch (CPU and CUDA), numpy
// and the emulator.
#pragma once

#include <vector>

#include "functors/step.h"
#include "ops/noise.h"

namespace septet {

struct StepTensors {
  TensorView sample, model_output, table;
  TensorView prev, original, slots;
  std::vector<TensorView> stored;
  TensorView uncond, counter, threshold, mu, mask, noise, philox;
  int64_t row = 0;
  int64_t philox_increment = 0;
  int64_t philox_threads = 0;
};

// More than any sampler needs.
inline constexpr int kMaxSlots = 8;

struct StepArgs {
  const void* sample = nullptr;
  const void* model_output = nullptr;
  const void* uncond = nullptr;
  const void* threshold = nullptr;
  const void* mu = nullptr;
  const void* mask = nullptr;
  const void* noise = nullptr;
  void* prev = nullptr;
  void* original = nullptr;
  void* slots[kMaxSlots] = {};
  bool keeps_slots = false;     // the caller stores outputs and samples: slots are only read
  const void* table = nullptr;  // null: inline_row holds the row
  double inline_row[kTableColumns] = {};  // exact for float32 tables too
  int64_t row = 0;
  int64_t rows = 0;
  const int64_t* counter = nullptr;
  // Model outputs come in runs of `block` elements, one every `output_block`; the rest of an
  // output block is the learned variance.
  int64_t block = 1;
  int64_t output_block = 1;
  Layout layout;
  PhiloxArgs philox;
};

// The flags of a call with its row; noise counts only where there is a source for it.
template <class T>
HOST_DEVICE StepFlags step_flags(const StepArgs& args, const StepRow<T>& row) {
  StepFlags flags = row_flags(row);
  flags.save = flags.save && !args.keeps_slots;
  flags.write = flags.write && !args.keeps_slots;
  flags.uncond = args.uncond != nullptr;
  flags.threshold = args.threshold != nullptr;
  flags.original = args.original != nullptr;
  flags.mu = args.mu != nullptr;
  flags.mask = args.mask != nullptr;
  flags.noise = flags.noise && (args.noise != nullptr || args.philox.streams > 0);
  flags.learned = flags.learned && flags.noise;
  return flags;
}

inline int64_t num_slots(const StepTensors& t) {
  if (!t.stored.empty()) return static_cast<int64_t>(t.stored.size());
  return t.slots.present ? t.slots.size(0) : 0;
}

template <class T>
void check_row(const char* op, const StepTensors& t, const StepRow<T>& row) {
  const int64_t slots = num_slots(t);
  require(row.noise_kind >= kNoNoise && row.noise_kind <= kLearnedRangeNoise, op, "table row ",
          t.row, " has an unknown noise kind ", row.noise_kind);
  require(row.noise_kind == kNoNoise || t.noise.present || t.philox.present, op, "table row ",
          t.row, " adds noise, so noise or philox must be given");
  require(row.noise_kind <= kConstantNoise || t.model_output.channels() == 2 * t.sample.channels(),
          op, "table row ", t.row, " has learned variance, so model_output must have ",
          2 * t.sample.channels(), " channels, got ", t.model_output.channels());
  const auto check_slot = [&](int slot, int lowest) {
    require(slot >= lowest && slot < slots, op, "table row ", t.row, " names slot ", slot, ", but ",
            t.stored.empty() ? "slots" : "stored", " holds ", slots);
  };
  if (t.stored.empty()) {
    check_slot(row.write_slot, kNoSlot);
    check_slot(row.save_slot, kNoSlot);
  }
  check_slot(row.base_slot, kNoSlot);
  for (int slot : row.read_slots) check_slot(slot, kUnused);
}

// `check` is called with the row of a table on the CPU; one on the device is not waited for.
template <class Check>
void plan_table(const char* op, const StepTensors& t, StepArgs& args, const Check& check) {
  const TensorView& table = t.table;
  require_dtype(op, "table", table, accumulator_dtype(t.sample.dtype));
  require(table.dim == 2 && table.size(1) == kTableColumns && is_contiguous(table), op,
          "table must be contiguous [rows, ", kTableColumns, "], got ", shape_text(table));
  require(table.device < 0 || table.device == t.sample.device, op,
          "table must be on the CPU or on ", device_name(t.sample.device), ", got ",
          device_name(table.device));
  args.rows = table.size(0);
  args.row = t.row;
  args.table = table.data;
  if (t.counter.present) {
    require_dtype(op, "counter", t.counter, Dtype::int64);
    require(t.counter.numel() == 1, op, "counter must hold one number, got ",
            shape_text(t.counter));
    require_device(op, "counter", t.counter, t.sample.device);
    require(table.device == t.sample.device, op, "table must be on ", device_name(t.sample.device),
            " where a counter is given");
    args.counter = static_cast<const int64_t*>(t.counter.data);
    if (t.sample.device >= 0) return;
  }
  const int64_t row = t.row + (args.counter ? *args.counter : 0);
  require(row >= 0 && row < args.rows, op, "row must be in [0, ", args.rows, "), got ", row);
  if (table.device >= 0) return;
  const bool wide = table.dtype == Dtype::float64;
  const double* doubles = static_cast<const double*>(table.data) + row * kTableColumns;
  const float* floats = static_cast<const float*>(table.data) + row * kTableColumns;
  wide ? check(read_row(doubles)) : check(read_row(floats));
  if (t.sample.device >= 0) {
    for (int i = 0; i < kTableColumns; ++i) args.inline_row[i] = wide ? doubles[i] : floats[i];
    args.table = nullptr;
  }
}

inline void plan_outputs(const char* op, const StepTensors& t, StepArgs& args) {
  const Layout& layout = args.layout;
  const int64_t factor = t.model_output.channels() == t.sample.channels() ? 1 : 2;
  require_like(op, "model_output", t.model_output, t.sample, layout, factor);
  if (t.uncond.present) require_like(op, "uncond_output", t.uncond, t.sample, layout, factor);
  args.block = layout.channels_last ? layout.channels : layout.per_sample;
  args.output_block = factor * args.block;
  args.model_output = t.model_output.data;
  args.uncond = t.uncond.data;
}

inline void plan_slots(const char* op, const StepTensors& t, StepArgs& args) {
  const int64_t count = num_slots(t);
  require(!t.slots.present || t.stored.empty(), op, "only one of slots and stored can be given");
  require(count <= kMaxSlots, op, t.slots.present ? "slots" : "stored", " must hold at most ",
          kMaxSlots, " tensors, got ", count);
  for (size_t k = 0; k < t.stored.size(); ++k) {
    require_like(op, "stored[k]", t.stored[k], t.sample, args.layout);
    args.slots[k] = t.stored[k].data;
  }
  args.keeps_slots = !t.stored.empty();
  if (!t.slots.present) return;
  require_like(op, "slots[k]", t.slots, t.sample, args.layout, 1, 1);
  require(count < 2 || t.slots.strides[0] == args.layout.numel, op,
          "slots must hold its samples one after the other");
  const int64_t bytes = args.layout.numel * dtype_size(t.sample.dtype);
  for (int64_t k = 0; k < count; ++k) args.slots[k] = static_cast<char*>(t.slots.data) + k * bytes;
}

// Checks everything and lays it out for the kernels; throws std::invalid_argument.
inline StepArgs plan_step(const StepTensors& t) {
  const char* op = "step";
  StepArgs args;
  require_floating(op, "sample", t.sample);
  args.layout = require_layout(op, "sample", t.sample);
  args.sample = t.sample.data;
  plan_outputs(op, t, args);
  const struct {
    const char* name;
    const TensorView& view;
  } same_shape[] = {
      {"prev_sample", t.prev},
      {"pred_original_sample", t.original},
      {"mu", t.mu},
      {"noise", t.noise},
  };
  for (const auto& [name, view] : same_shape) {
    if (view.present) require_like(op, name, view, t.sample, args.layout);
  }
  plan_slots(op, t, args);
  if (t.threshold.present) {
    require(t.threshold.dim == 1 && t.sample.dim > 0 && t.threshold.size(0) == t.sample.size(0) &&
                is_contiguous(t.threshold),
            op, "threshold must hold one number per sample, got ", shape_text(t.threshold));
    require_dtype(op, "threshold", t.threshold, accumulator_dtype(t.sample.dtype));
    require_device(op, "threshold", t.threshold, t.sample.device);
  }
  if (t.mask.present) require_mask(op, t.mask, "sample", t.sample);
  plan_table(op, t, args, [&](const auto& row) { check_row(op, t, row); });
  args.philox =
      plan_philox(op, t.philox, t.sample, args.layout, t.philox_increment, t.philox_threads);
  args.prev = t.prev.data;
  args.original = t.original.data;
  args.threshold = t.threshold.data;
  args.mu = t.mu.data;
  args.mask = t.mask.data;
  args.noise = t.noise.data;
  return args;
}

inline constexpr const char* kStepSchema =
    "step(Tensor sample, Tensor model_output, Tensor table, int row, Tensor(a!) prev_sample, "
    "Tensor(b!)? pred_original_sample, Tensor(c!)? slots, Tensor[] stored, Tensor? uncond_output, "
    "Tensor? counter, Tensor? threshold, Tensor? mu, Tensor? mask, Tensor? noise, Tensor? philox, "
    "int philox_increment, int philox_threads) -> ()";

// The commonest call. On the way through the dispatcher every argument costs time, given or not,
// and on small samples that is most of the time of a step.
inline constexpr const char* kPlainStepSchema =
    "step.plain(Tensor sample, Tensor model_output, Tensor table, int row, "
    "Tensor(a!) prev_sample, Tensor[] stored) -> ()";

// Applies the step to elements [begin, end), in memory order.
using StepRange = void (*)(const StepArgs& args, int64_t begin, int64_t end);

}  // namespace septet

SEPTET_DECLARE_PER_ISA(StepRange step_range(Dtype dtype))
