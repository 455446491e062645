// The sampler step on the CPU, one tile at a time. Operands that already are arithmetic-type values
// in memory order are read where they lie; the others are brought into that form tile by tile,
// which costs little because a tile stays in the first-level cache.
#include "ops/step.h"

#include "launch/lanes.h"
#include "launch/philox_cpu.h"

namespace septet {
SEPTET_ISA_BEGIN
namespace {

inline constexpr int64_t kTile = 256;

template <class T>
class StepTile {
  using A = accumulator_t<T>;
  using V = Vector<A>;
  static constexpr bool kDirect = sizeof(T) == sizeof(A);

 public:
  StepTile(const StepArgs& args, int64_t row_index, const StepRow<A>& row)
      : args_(args), row_index_(row_index), row_(row) {
    has_uncond = args.uncond != nullptr;
    has_threshold = args.threshold != nullptr;
    has_mu = args.mu != nullptr;
    has_mask = args.mask != nullptr;
    has_noise = row.noise_kind != kNoNoise && (args.noise != nullptr || args.philox.streams > 0);
    wants_original = args.original != nullptr;
    learned_ = has_noise && row.noise_kind > kConstantNoise;
  }

  // What step_element asks for.
  bool has_uncond, has_threshold, has_mu, has_mask, has_noise, wants_original;
  V sample() const { return V::load(sample_ + at_); }
  V model_output() const { return V::load(output_ + at_); }
  V uncond() const { return V::load(uncond_ + at_); }
  V term(int k) const { return V::load(slots_[k] + at_); }
  V base() const { return V::load(slots_[kStepTerms] + at_); }
  V threshold() const { return V::load(threshold_ + at_); }
  V mu() const { return V::load(mu_ + at_); }
  V mask() const { return V::load(mask_ + at_); }
  V noise() const { return V::load(noise_ + at_); }
  V variance() const { return V::load(variance_ + at_); }
  void store_saved(V v) { v.store(saved_ + at_); }
  void store_output(V v) { v.store(written_ + at_); }
  void store_original(V v) { v.store(original_ + at_); }
  void store_prev(V v) { v.store(prev_ + at_); }

  void run(int64_t start, int64_t count) {
    start_ = start;
    count_ = count;
    direct_ = kDirect && count % V::size == 0;
    stage_inputs();
    stage_outputs();
    for (at_ = 0; at_ < count; at_ += V::size) step_element<V>(row_, *this);
    if (!direct_) flush_outputs();
  }

 private:
  enum Buffer {
    kSample, kOutput, kUncond, kVariance, kThreshold, kMu, kMask, kNoise, kPrev, kOriginal,
    kSaved, kWritten, kSlot, kBuffers = kSlot + kStepTerms + 1
  };

  const T* slot_data(int k) const {
    return static_cast<const T*>(args_.slots) + k * args_.layout.numel;
  }

  const A* flat(const void* data, Buffer buffer) {
    const T* source = static_cast<const T*>(data) + start_;
    if constexpr (kDirect) {
      if (direct_) return source;
    }
    convert_from(source, buffers_[buffer], count_);
    return buffers_[buffer];
  }

  // Run by run out of a model output that also holds the variance; `shift` picks the half.
  const A* strided(const void* data, int64_t shift, Buffer buffer) {
    if (args_.output_block == args_.block) return flat(data, buffer);
    const T* source = static_cast<const T*>(data);
    for (int64_t i = 0; i < count_;) {
      const int64_t position = start_ + i;
      const int64_t within = position % args_.block;
      const int64_t left = args_.block - within < count_ - i ? args_.block - within : count_ - i;
      convert_from(source + position / args_.block * args_.output_block + shift + within,
                   buffers_[buffer] + i, left);
      i += left;
    }
    return buffers_[buffer];
  }

  const A* staged_mask() {
    const Layout& layout = args_.layout;
    const T* source = static_cast<const T*>(args_.mask);
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t position = start_ + i;
      const int64_t place = layout.channels_last ? position / layout.channels
                                                 : position / layout.per_sample * layout.spatial +
                                                       position % layout.spatial;
      buffers_[kMask][i] = load_value(source + place);
    }
    return buffers_[kMask];
  }

  const A* staged_threshold() {
    const A* source = static_cast<const A*>(args_.threshold);
    for (int64_t i = 0; i < count_; ++i) {
      buffers_[kThreshold][i] = source[(start_ + i) / args_.layout.per_sample];
    }
    return buffers_[kThreshold];
  }

  // Noise drawn here is rounded to the storage type, as a noise tensor would have been.
  const A* staged_noise() {
    if (args_.noise != nullptr) return flat(args_.noise, kNoise);
    float values[kTile];
    normal_fill(args_.philox, row_index_, start_, start_ + count_, values);
    for (int64_t i = 0; i < count_; ++i) {
      T rounded;
      store_value(&rounded, static_cast<A>(values[i]));
      buffers_[kNoise][i] = load_value(&rounded);
    }
    return buffers_[kNoise];
  }

  void stage_inputs() {
    sample_ = flat(args_.sample, kSample);
    output_ = strided(args_.model_output, 0, kOutput);
    if (has_uncond) uncond_ = strided(args_.uncond, 0, kUncond);
    if (learned_) variance_ = strided(args_.model_output, args_.block, kVariance);
    if (has_threshold) threshold_ = staged_threshold();
    if (has_mu) mu_ = flat(args_.mu, kMu);
    if (has_mask) mask_ = staged_mask();
    if (has_noise) noise_ = staged_noise();
    for (int term = 0; term <= kStepTerms; ++term) {
      const int k = term < kStepTerms ? row_.read_slots[term] : row_.base_slot;
      if (k >= 0) slots_[term] = flat(slot_data(k), static_cast<Buffer>(kSlot + term));
    }
  }

  A* output_place(void* data, Buffer buffer) {
    if constexpr (kDirect) {
      if (direct_) return static_cast<T*>(data) + start_;
    }
    return buffers_[buffer];
  }

  void stage_outputs() {
    prev_ = output_place(args_.prev, kPrev);
    if (wants_original) original_ = output_place(args_.original, kOriginal);
    if (row_.save_slot >= 0) {
      saved_ = output_place(const_cast<T*>(slot_data(row_.save_slot)), kSaved);
    }
    if (row_.write_slot >= 0) {
      written_ = output_place(const_cast<T*>(slot_data(row_.write_slot)), kWritten);
    }
  }

  void flush(const A* from, T* to) { convert_to(from, to + start_, count_); }

  void flush_outputs() {
    flush(prev_, static_cast<T*>(args_.prev));
    if (wants_original) flush(original_, static_cast<T*>(args_.original));
    if (row_.save_slot >= 0) flush(saved_, const_cast<T*>(slot_data(row_.save_slot)));
    if (row_.write_slot >= 0) flush(written_, const_cast<T*>(slot_data(row_.write_slot)));
  }

  const StepArgs& args_;
  const int64_t row_index_;
  const StepRow<A> row_;
  bool learned_ = false, direct_ = false;
  int64_t start_ = 0, count_ = 0, at_ = 0;
  const A* sample_ = nullptr;
  const A* output_ = nullptr;
  const A* uncond_ = nullptr;
  const A* variance_ = nullptr;
  const A* threshold_ = nullptr;
  const A* mu_ = nullptr;
  const A* mask_ = nullptr;
  const A* noise_ = nullptr;
  const A* slots_[kStepTerms + 1] = {};
  A* prev_ = nullptr;
  A* original_ = nullptr;
  A* saved_ = nullptr;
  A* written_ = nullptr;
  alignas(64) A buffers_[kBuffers][kTile] = {};
};

template <class T>
void step(const StepArgs& args, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  const int64_t index = args.row + (args.counter != nullptr ? *args.counter : 0);
  const StepRow<A> row = read_row(static_cast<const A*>(args.table) + index * kTableColumns);
  StepTile<T> tile(args, index, row);
  for (int64_t start = begin; start < end; start += kTile) {
    tile.run(start, end - start < kTile ? end - start : kTile);
  }
}

}  // namespace

StepRange step_range(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64:
      return step<double>;
    case Dtype::float16:
      return step<float16>;
    case Dtype::bfloat16:
      return step<bfloat16>;
    default:
      return step<float>;
  }
}

SEPTET_ISA_END
}  // namespace septet
