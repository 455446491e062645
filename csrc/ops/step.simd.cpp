// The sampler step on the CPU, one tile at a time.
#include "launch/philox_cpu.h"
#include "ops/step_tile.h"

namespace septet {
SEPTET_ISA_BEGIN
namespace {

// Where the operands of a tile begin. Copied into each loop, so that the compiler sees that no
// store can change the pointers.
template <class A>
struct TileOperands {
  using V = Vector<A>;

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
  int64_t at = 0;

  HOST_DEVICE V sample() const { return V::load(sample_ + at); }
  HOST_DEVICE V model_output() const { return V::load(output_ + at); }
  HOST_DEVICE V uncond() const { return V::load(uncond_ + at); }
  HOST_DEVICE V term(int k) const { return V::load(slots_[k] + at); }
  HOST_DEVICE V base() const { return V::load(slots_[kStepTerms] + at); }
  HOST_DEVICE V threshold() const { return V::load(threshold_ + at); }
  HOST_DEVICE V mu() const { return V::load(mu_ + at); }
  HOST_DEVICE V mask() const { return V::load(mask_ + at); }
  HOST_DEVICE V noise() const { return V::load(noise_ + at); }
  HOST_DEVICE V variance() const { return V::load(variance_ + at); }
  HOST_DEVICE void store_saved(V v) { v.store(saved_ + at); }
  HOST_DEVICE void store_output(V v) { v.store(written_ + at); }
  HOST_DEVICE void store_original(V v) { v.store(original_ + at); }
  HOST_DEVICE void store_prev(V v) { v.store(prev_ + at); }
};

template <bool kValue>
struct Constant {
  static constexpr bool value = kValue;
};

// Calls f with the flag as a constant.
template <class F>
HOST_DEVICE void with_constant(bool flag, F f) {
  flag ? f(Constant<true>{}) : f(Constant<false>{});
}

template <class A, class Flags>
void run_tile(const StepRow<A>& shared_row, const Flags& shared_flags,
              const TileOperands<A>& operands, int64_t count) {
  const StepRow<A> row = shared_row;
  const Flags flags = shared_flags;
  TileOperands<A> values = operands;
  for (values.at = 0; values.at < count; values.at += Vector<A>::size) {
    step_element<Vector<A>>(row, flags, values);
  }
}

template <class T>
class StepTile : private TileSource<T>, private TileOperands<accumulator_t<T>> {
  using A = accumulator_t<T>;
  using Source = TileSource<T>;
  using Source::args_, Source::count_, Source::direct_, Source::for_runs, Source::start_;

 public:
  StepTile(const StepArgs& args, int64_t row_index, const StepRow<A>& row)
      : Source(args), row_index_(row_index), row_(row), flags_(step_flags(args, row)) {
    const StepFlags& f = flags_;
    const bool rare = f.uncond || f.base || f.save || f.threshold || f.mu || f.learned || f.mask;
    plain_ = !rare && !f.terms && !f.write;
    history_ = !rare && f.terms && !f.x0 && !f.original && !f.noise;
  }

  // Whether no operand has to be brought into a buffer, so that a tile may have any length.
  bool in_place() const {
    return Source::kDirect && args_.output_block == args_.block && !flags_.threshold &&
           !flags_.mask && (!flags_.noise || args_.noise != nullptr);
  }

  void run(int64_t start, int64_t count) {
    this->move_to(start, count);
    stage_inputs();
    stage_outputs();
    if (history_) {
      with_constant(flags_.write, [&](auto write) {
        using Flags = FixedStepFlags<false, false, false, true, write.value>;
        run_tile<A>(row_, Flags{}, *this, count);
      });
    } else if (plain_) {
      with_constant(flags_.x0, [&](auto x0) {
        with_constant(flags_.noise, [&](auto noise) {
          with_constant(flags_.original, [&](auto original) {
            using Flags = FixedStepFlags<x0.value, noise.value, original.value>;
            run_tile<A>(row_, Flags{}, *this, count);
          });
        });
      });
    } else {
      run_tile<A>(row_, flags_, *this, count);
    }
    if (!direct_) flush_outputs();
  }

 private:
  enum Buffer {
    kSample,
    kOutput,
    kUncond,
    kVariance,
    kThreshold,
    kMu,
    kMask,
    kNoise,
    kPrev,
    kOriginal,
    kSaved,
    kWritten,
    kSlot,
    kBuffers = kSlot + kStepTerms + 1
  };

  T* slot_data(int k) const { return static_cast<T*>(args_.slots[k]); }

  const A* flat(const void* data, Buffer buffer) { return Source::flat(data, buffers_[buffer]); }
  const A* strided(const void* data, int64_t shift, Buffer buffer) {
    return Source::strided(data, shift, buffers_[buffer]);
  }

  const A* staged_mask() {
    const Layout& layout = args_.layout;
    const T* source = static_cast<const T*>(args_.mask);
    A* mask = buffers_[kMask];
    if (layout.channels_last) {
      for_runs(layout.channels, [&](int64_t i, int64_t count, int64_t position) {
        const A value = load_value(source + position / layout.channels);
        for (int64_t j = 0; j < count; ++j) mask[i + j] = value;
      });
    } else {
      for_runs(layout.spatial, [&](int64_t i, int64_t count, int64_t position) {
        const int64_t place =
            position / layout.per_sample * layout.spatial + position % layout.spatial;
        convert_from(source + place, mask + i, count);
      });
    }
    return mask;
  }

  const A* staged_threshold() {
    const A* source = static_cast<const A*>(args_.threshold);
    A* bounds = buffers_[kThreshold];
    for_runs(args_.layout.per_sample, [&](int64_t i, int64_t count, int64_t position) {
      const A value = source[position / args_.layout.per_sample];
      for (int64_t j = 0; j < count; ++j) bounds[i + j] = value;
    });
    return bounds;
  }

  // Noise drawn here is rounded to the storage type, as a noise tensor would have been.
  const A* staged_noise() {
    if (args_.noise != nullptr) return flat(args_.noise, kNoise);
    if constexpr (sizeof(T) == sizeof(float)) {
      normal_fill(args_.philox, row_index_, start_, start_ + count_, buffers_[kNoise]);
      return buffers_[kNoise];
    }
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
    this->sample_ = flat(args_.sample, kSample);
    this->output_ = strided(args_.model_output, 0, kOutput);
    if (flags_.uncond) this->uncond_ = strided(args_.uncond, 0, kUncond);
    if (flags_.learned) this->variance_ = strided(args_.model_output, args_.block, kVariance);
    if (flags_.threshold) this->threshold_ = staged_threshold();
    if (flags_.mu) this->mu_ = flat(args_.mu, kMu);
    if (flags_.mask) this->mask_ = staged_mask();
    if (flags_.noise) this->noise_ = staged_noise();
    for (int term = 0; term <= kStepTerms; ++term) {
      const int k = term < kStepTerms ? row_.read_slots[term] : row_.base_slot;
      if (k >= 0) this->slots_[term] = flat(slot_data(k), static_cast<Buffer>(kSlot + term));
    }
  }

  A* output_place(void* data, Buffer buffer) {
    if constexpr (Source::kDirect) {
      if (direct_) return static_cast<T*>(data) + start_;
    }
    return buffers_[buffer];
  }

  void stage_outputs() {
    this->prev_ = output_place(args_.prev, kPrev);
    if (flags_.original) this->original_ = output_place(args_.original, kOriginal);
    if (flags_.save) this->saved_ = output_place(slot_data(row_.save_slot), kSaved);
    if (flags_.write) this->written_ = output_place(slot_data(row_.write_slot), kWritten);
  }

  void flush(const A* from, void* to) { convert_to(from, static_cast<T*>(to) + start_, count_); }

  void flush_outputs() {
    flush(this->prev_, args_.prev);
    if (flags_.original) flush(this->original_, args_.original);
    if (flags_.save) flush(this->saved_, slot_data(row_.save_slot));
    if (flags_.write) flush(this->written_, slot_data(row_.write_slot));
  }

  const int64_t row_index_;
  const StepRow<A> row_;
  const StepFlags flags_;
  bool plain_ = false, history_ = false;
  alignas(64) A buffers_[kBuffers][kTile] = {};
};

template <class T>
void step(const StepArgs& args, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  const int64_t index = args.row + (args.counter != nullptr ? *args.counter : 0);
  const StepRow<A> row = read_row(static_cast<const A*>(args.table) + index * kTableColumns);
  StepTile<T> tile(args, index, row);
  const int64_t whole = tile.in_place() ? (end - begin) / kTile * kTile : 0;
  if (whole > 0) tile.run(begin, whole);
  for (int64_t start = begin + whole; start < end; start += kTile) {
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
