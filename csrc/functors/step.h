// One sampler step of one element: the update that all seven samplers share.
//
//   m  = u + guidance_scale (c - u)
//   m' = sum_k weights[k] read_slots[k]
//   x0 = clip((x0_sample x + x0_output m') / x0_divisor)
//   x' = (pred_original x0 + base y + output m' + prior_mean mu + noise z) mask
//
// The rows of coefficients come from a scheduler's table; python/septet/ops/table.py documents
// the columns.
#pragma once

#include "functors/math.h"
#include "functors/scalar.h"

namespace septet {
SEPTET_ISA_BEGIN

inline constexpr int kTableColumns = 24;
inline constexpr int kStepTerms = 4;

// read_slots entries that are no slots, and "none" for the other slot columns.
inline constexpr int kCurrentOutput = -1;
inline constexpr int kUnused = -2;
inline constexpr int kNoSlot = -1;

enum NoiseKind { kNoNoise = 0, kConstantNoise = 1, kLearnedNoise = 2, kLearnedRangeNoise = 3 };

// T is the arithmetic type. The columns stand in the order of the table.
template <class T>
struct StepRow {
  T guidance_scale;
  T x0_sample, x0_output, x0_divisor, x0_clip;
  T pred_original, base, output, prior_mean;
  int noise_kind;
  T noise;
  T log_variance_low, log_variance_high;
  int write_slot, save_slot, base_slot;
  int read_slots[kStepTerms];
  T weights[kStepTerms];
};

template <class T>
HOST_DEVICE StepRow<T> read_row(const T* column) {
  StepRow<T> row;
  row.guidance_scale = column[0];
  row.x0_sample = column[1];
  row.x0_output = column[2];
  row.x0_divisor = column[3];
  row.x0_clip = column[4];
  row.pred_original = column[5];
  row.base = column[6];
  row.output = column[7];
  row.prior_mean = column[8];
  row.noise_kind = static_cast<int>(column[9]);
  row.noise = column[10];
  row.log_variance_low = column[11];
  row.log_variance_high = column[12];
  row.write_slot = static_cast<int>(column[13]);
  row.save_slot = static_cast<int>(column[14]);
  row.base_slot = static_cast<int>(column[15]);
  SEPTET_UNROLL
  for (int k = 0; k < kStepTerms; ++k) {
    row.read_slots[k] = static_cast<int>(column[16 + k]);
    row.weights[k] = column[20 + k];
  }
  return row;
}

// Clamps with NaN passed through, as torch.clamp does.
template <class V>
HOST_DEVICE V clamp(V x, V bound) {
  return minimum(bound, maximum(-bound, x));
}

// Standard deviation of a learned variance v.
template <class V, class T>
HOST_DEVICE V learned_scale(const StepRow<T>& row, V v) {
  if (row.noise_kind == kLearnedNoise) return V(row.noise) * sqrt(v);
  const V fraction = fma(v, V(T(0.5)), V(T(0.5)));
  const V span = V(row.log_variance_high - row.log_variance_low);
  return V(row.noise) * exp(V(T(0.5)) * fma(fraction, span, V(row.log_variance_low)));
}

// Which terms of the update a call and its row use.
struct StepFlags {
  bool uncond, terms, base, save, write, x0, threshold, original, mu, noise, learned, mask;
};

// The flags of the most frequent calls, as constants. PNDM's step combines stored outputs (kTerms),
// and may store its own (kWrite).
template <bool kX0, bool kNoise, bool kOriginal, bool kTerms = false, bool kWrite = false>
struct FixedStepFlags {
  static constexpr bool uncond = false, terms = kTerms, base = false, save = false, write = kWrite,
                        x0 = kX0, threshold = false, original = kOriginal, mu = false,
                        noise = kNoise, learned = false, mask = false;
};

// The flags that follow from the row; those of the operands are the caller's to set.
template <class T>
HOST_DEVICE StepFlags row_flags(const StepRow<T>& row) {
  StepFlags flags = {};
  flags.terms = row.read_slots[0] != kCurrentOutput || row.weights[0] != T(1);
  SEPTET_UNROLL
  for (int k = 1; k < kStepTerms; ++k) flags.terms |= row.read_slots[k] != kUnused;
  flags.base = row.base_slot != kNoSlot;
  flags.save = row.save_slot != kNoSlot;
  flags.write = row.write_slot != kNoSlot;
  flags.x0 = row.pred_original != T(0);
  flags.noise = row.noise_kind != kNoNoise;
  flags.learned = row.noise_kind > kConstantNoise;
  return flags;
}

// The clean sample as the row estimates it, before clipping.
template <class V, class T>
HOST_DEVICE V estimate_original(const StepRow<T>& row, V x, V m) {
  const V x0 = fma(V(row.x0_output), m, V(row.x0_sample) * x);
  // Folded tables keep a divisor only where it is zero: x0 is infinite there, and clips to the
  // range. Tables that repeat diffusers' float32 operations keep it everywhere.
  return row.x0_divisor == T(1) ? x0 : x0 / V(row.x0_divisor);
}

// Values is what the caller can load and store for this element:
//   loads   sample, model_output, uncond, term(k), base, threshold, mu, mask, noise, variance
//   stores  store_saved(v), store_output(v), store_original(v), store_prev(v)
// term(k) is the slot that read_slots[k] names, base the slot base_slot. A load happens only where
// its flag is set. Slots are read before one is written, so a row may write the slot whose oldest
// value it reads.

// The model output m after guidance.
template <class V, class T, class Flags, class Values>
HOST_DEVICE V guided_output(const StepRow<T>& row, const Flags& flags, Values& values) {
  const V m = values.model_output();
  if (!flags.uncond) return m;
  const V u = values.uncond();
  return fma(V(row.guidance_scale), m - u, u);
}

// m', the combination of m with stored outputs.
template <class V, class T, class Flags, class Values>
HOST_DEVICE V combined_output(const StepRow<T>& row, const Flags& flags, V m, Values& values) {
  if (!flags.terms) return m;
  V combined = V(T(0));
  SEPTET_UNROLL
  for (int k = 0; k < kStepTerms; ++k) {
    if (row.read_slots[k] == kUnused) continue;
    const V term = row.read_slots[k] == kCurrentOutput ? m : values.term(k);
    combined = fma(V(row.weights[k]), term, combined);
  }
  return combined;
}

template <class V, class T, class Flags, class Values>
HOST_DEVICE void step_element(const StepRow<T>& row, const Flags& flags, Values& values) {
  const V x = values.sample();
  const V m = guided_output<V>(row, flags, values);
  const V combined = combined_output<V>(row, flags, m, values);
  const V y = flags.base ? values.base() : x;
  if (flags.save) values.store_saved(x);
  if (flags.write) values.store_output(m);

  V next = fma(V(row.base), y, V(row.output) * combined);
  if (flags.x0 || flags.original) {
    V x0 = estimate_original(row, x, combined);
    if (flags.threshold) {
      const V bound = values.threshold();
      x0 = clamp(x0, bound) / bound;
    } else {
      x0 = clamp(x0, V(row.x0_clip));
    }
    if (flags.original) values.store_original(x0);
    // 0 * infinity must not reach a sampler that does not use x0.
    if (flags.x0) next = fma(V(row.pred_original), x0, next);
  }
  if (flags.mu) next = fma(V(row.prior_mean), values.mu(), next);
  if (flags.noise) {
    const V scale = flags.learned ? learned_scale(row, values.variance()) : V(row.noise);
    next = fma(scale, values.noise(), next);
  }
  if (flags.mask) next = next * values.mask();
  values.store_prev(next);
}

SEPTET_ISA_END
}  // namespace septet
