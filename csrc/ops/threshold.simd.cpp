// The threshold quantile on the CPU. Two passes compute x0 tile by tile: the first counts leading
// digits, the second gathers the values that share the wanted one. These are few, and the lower
// digits are found among them alone.
//
// What is computed are order statistics, so the result depends neither on the chunks nor on their
// order.
#include "ops/threshold.h"

#include "ops/step_tile.h"

namespace septet {
SEPTET_ISA_BEGIN
namespace {

// Neighbours often share a digit, and a counter is not ready again at once: they take turns.
inline constexpr int kWays = 4;

// Not std::vector, whose inline functions would be compiled with this file's instructions.
template <class E>
class Array {
 public:
  Array() = default;
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { delete[] data_; }

  // Forgets the contents.
  E* at_least(int64_t size) {
    if (size > size_) {
      delete[] data_;
      data_ = nullptr;
      size_ = 0;
      data_ = new E[static_cast<std::size_t>(size)];
      size_ = size;
    }
    return data_;
  }
  E* data() const { return data_; }

 private:
  E* data_ = nullptr;
  int64_t size_ = 0;
};

template <class A>
struct OriginalOperands {
  using V = Vector<A>;

  const A* sample_ = nullptr;
  const A* output_ = nullptr;
  const A* uncond_ = nullptr;
  int64_t at = 0;

  HOST_DEVICE V sample() const { return V::load(sample_ + at); }
  HOST_DEVICE V model_output() const { return V::load(output_ + at); }
  HOST_DEVICE V uncond() const { return V::load(uncond_ + at); }
  HOST_DEVICE V term(int) const { return V(A(0)); }  // rows that read slots are refused
};

// The bits of |x0| of one tile, x0 being what the step computes.
template <class T>
class OriginalTile : private TileSource<T> {
  using A = accumulator_t<T>;
  using Bits = magnitude_t<A>;
  using Source = TileSource<T>;

 public:
  OriginalTile(const StepArgs& args, const StepRow<A>& row)
      : Source(args), row_(row), flags_(step_flags(args, row)) {}

  const Bits* run(int64_t start, int64_t count) {
    this->move_to(start, count);
    OriginalOperands<A> operands;
    operands.sample_ = Source::flat(this->args_.sample, buffers_[0]);
    operands.output_ = Source::strided(this->args_.model_output, 0, buffers_[1]);
    if (flags_.uncond) operands.uncond_ = Source::strided(this->args_.uncond, 0, buffers_[2]);
    if (flags_.uncond || flags_.terms) {
      estimate(flags_, operands);
    } else {
      estimate(FixedStepFlags<true, false, false, false>{}, operands);
    }
    for (int64_t i = 0; i < kTile; ++i) bits_[i] = magnitude_bits(x0_[i]);
    return bits_;
  }

 private:
  // Works on copies, so that the compiler sees that no store can change them.
  template <class Flags>
  void estimate(const Flags& shared_flags, OriginalOperands<A> values) {
    using V = Vector<A>;
    const StepRow<A> row = row_;
    const Flags flags = shared_flags;
    for (values.at = 0; values.at < this->count_; values.at += V::size) {
      const V m = guided_output<V>(row, flags, values);
      const V combined = combined_output<V>(row, flags, m, values);
      estimate_original(row, values.sample(), combined).store(x0_ + values.at);
    }
  }

  const StepRow<A> row_;
  const StepFlags flags_;
  alignas(64) A buffers_[3][kTile] = {};
  alignas(64) A x0_[kTile] = {};
  alignas(64) Bits bits_[kTile];
};

inline void count_digits(const auto* bits, int64_t count, int shift, int mask,
                         int32_t (*counts)[kDigits]) {
  int64_t i = 0;
  for (; i + kWays <= count; i += kWays) {
    SEPTET_UNROLL
    for (int way = 0; way < kWays; ++way) {
      ++counts[way][static_cast<int>(bits[i + way] >> shift) & mask];
    }
  }
  for (; i < count; ++i) ++counts[0][static_cast<int>(bits[i] >> shift) & mask];
}

// Copies the values in [low, high] to `kept`, which may be where they come from, returns how many
// they are, and lowers `next` to the least value above them. A group of which all values are lower
// is passed over at once: nearly every one, since quantiles for thresholding are high.
template <class Bits>
int64_t gather(const Bits* bits, int64_t count, Bits low, Bits high, Bits* kept, Bits& next) {
  constexpr int kGroup = 16;
  Bits least = next;
  int64_t size = 0;
  const auto take = [&](Bits value) {
    kept[size] = value;
    size += (value >= low) & (value <= high);
    least = value > high && value < least ? value : least;
  };
  int64_t i = 0;
  for (; i + kGroup <= count; i += kGroup) {
    Bits largest = 0;
    for (int j = 0; j < kGroup; ++j) largest = bits[i + j] > largest ? bits[i + j] : largest;
    if (largest < low) continue;
    for (int j = 0; j < kGroup; ++j) take(bits[i + j]);
  }
  for (; i < count; ++i) take(bits[i]);
  next = least;
  return size;
}

template <class T>
class ThresholdSample {
  using A = accumulator_t<T>;
  using Bits = magnitude_t<A>;
  static constexpr int kFirstShift = Magnitude<A>::bits - kDigitBits;
  static constexpr int kInfinity = static_cast<int>(Magnitude<A>::infinity >> kFirstShift);

  struct Chunk {
    alignas(64) int32_t counts[kWays][kDigits];
    Bits largest, next;
    Bits* kept;
  };

 public:
  ThresholdSample(const ThresholdArgs& args, int64_t chunks, RunChunks run)
      : args_(args),
        row_(read_row(static_cast<const A*>(args.step.table) + args.step.row * kTableColumns)),
        length_(args.step.layout.per_sample),
        count_(chunks),
        run_(run) {
    const int64_t share = (length_ + chunks - 1) / chunks;
    share_ = (share + kTile - 1) / kTile * kTile;
    chunks_.at_least(chunks);
  }

  A bound(int64_t sample) {
    origin_ = sample * length_;
    for_chunks([](void* self, int64_t i) { static_cast<ThresholdSample*>(self)->count(i); });
    Bits largest = 0;
    for (int64_t i = 0; i < count_; ++i) {
      if (chunk(i).largest > largest) largest = chunk(i).largest;
    }
    if (largest > Magnitude<A>::infinity) return from_magnitude(largest);
    rank_ = args_.rank;
    choose_first_digit();
    for_chunks([](void* self, int64_t i) { static_cast<ThresholdSample*>(self)->keep(i); });
    next_ = Magnitude<A>::largest;
    for (int64_t i = 0; i < count_; ++i) {
      if (chunk(i).next < next_) next_ = chunk(i).next;
    }
    choose_lower_digits();
    const A below = from_magnitude(digits_);
    const bool inside = args_.weight == 0 || rank_ + 1 < size_;
    const A above = inside ? below : from_magnitude(next_);
    return threshold_bound(below, above, static_cast<A>(args_.weight),
                           static_cast<A>(args_.maximum));
  }

 private:
  Chunk& chunk(int64_t i) { return chunks_.data()[i]; }

  void for_chunks(ChunkTask task) {
    if (run_ != nullptr) return run_(count_, task, this);
    for (int64_t i = 0; i < count_; ++i) task(this, i);
  }

  template <class F>
  void for_tiles(int64_t i, F f) {
    const int64_t first = i * share_, last = first + share_ < length_ ? first + share_ : length_;
    OriginalTile<T> tile(args_.step, row_);
    for (int64_t at = first; at < last; at += kTile) {
      const int64_t count = last - at < kTile ? last - at : kTile;
      f(tile.run(origin_ + at, count), count);
    }
  }

  // First pass.
  void count(int64_t i) {
    Chunk& part = chunk(i);
    __builtin_memset(part.counts, 0, sizeof(part.counts));
    for_tiles(i, [&](const Bits* bits, int64_t count) {
      count_digits(bits, count, kFirstShift, kDigits - 1, part.counts);
    });
    // Infinity shares its digit with NaNs; seldom is there one to be looked at.
    int64_t not_finite = 0;
    for (int digit = kInfinity; digit < kDigits; ++digit) {
      for (int way = 0; way < kWays; ++way) not_finite += part.counts[way][digit];
    }
    part.largest = 0;
    if (not_finite == 0) return;
    for_tiles(i, [&](const Bits* bits, int64_t count) {
      for (int64_t j = 0; j < count; ++j) {
        if (bits[j] > part.largest) part.largest = bits[j];
      }
    });
  }

  // Finds the digit of the wanted rank, and makes the rank one among the values with that digit.
  int choose_digit(int32_t (*counts)[kDigits]) {
    for (int digit = 0;; ++digit) {
      int64_t size = 0;
      for (int way = 0; way < kWays; ++way) size += counts[way][digit];
      if (rank_ < size || digit == kDigits - 1) {
        size_ = size;
        return digit;
      }
      rank_ -= size;
    }
  }

  void choose_first_digit() {
    int32_t (*total)[kDigits] = totals_;
    __builtin_memcpy(total, chunk(0).counts, sizeof(totals_));
    for (int64_t i = 1; i < count_; ++i) {
      for (int way = 0; way < kWays; ++way) {
        for (int digit = 0; digit < kDigits; ++digit) {
          total[way][digit] += chunk(i).counts[way][digit];
        }
      }
    }
    const int digit = choose_digit(total);
    digits_ = digit;
    Bits* place = kept_.at_least(size_);
    for (int64_t i = 0; i < count_; ++i) {
      chunk(i).kept = place;
      for (int way = 0; way < kWays; ++way) place += chunk(i).counts[way][digit];
    }
  }

  // Second pass. Tiles are gathered into a buffer first: gather() writes one value too many, which
  // would be another chunk's.
  void keep(int64_t i) {
    Chunk& part = chunk(i);
    Bits* place = part.kept;
    Bits next = Magnitude<A>::largest, buffer[kTile];
    for_tiles(i, [&](const Bits* bits, int64_t count) {
      const int64_t size = gather(bits, count, low(kFirstShift), high(kFirstShift), buffer, next);
      __builtin_memcpy(place, buffer, static_cast<std::size_t>(size) * sizeof(Bits));
      place += size;
    });
    part.next = next;
  }

  // The values that begin with digits_, `shift` bits being left.
  Bits low(int shift) const { return digits_ << shift; }
  Bits high(int shift) const { return low(shift) + ((Bits(1) << shift) - 1); }

  void choose_lower_digits() {
    Bits* values = kept_.data();
    for (int width = kFirstShift; width > 0;) {
      const int shift = bits_below_digit(width);
      const int mask = (1 << (width - shift)) - 1;
      const int64_t count = size_;
      __builtin_memset(totals_, 0, sizeof(totals_));
      count_digits(values, count, shift, mask, totals_);
      digits_ = digits_ << (width - shift) | choose_digit(totals_);
      gather(values, count, low(shift), high(shift), values, next_);
      width = shift;
    }
  }

  const ThresholdArgs& args_;
  const StepRow<A> row_;
  const int64_t length_, count_;
  const RunChunks run_;
  int64_t share_ = 0, origin_ = 0;
  int64_t rank_ = 0, size_ = 0;  // the wanted rank among the size_ values that are left
  Bits digits_ = 0;              // their common digits
  Bits next_ = 0;                // the least value above them
  alignas(64) int32_t totals_[kWays][kDigits];
  Array<Chunk> chunks_;
  Array<Bits> kept_;
};

template <class T>
void threshold(const ThresholdArgs& args, int64_t begin, int64_t end, int64_t chunks,
               RunChunks run) {
  using A = accumulator_t<T>;
  ThresholdSample<T> sample(args, chunks, run);
  for (int64_t i = begin; i < end; ++i) static_cast<A*>(args.out)[i] = sample.bound(i);
}

}  // namespace

ThresholdRange threshold_range(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64:
      return threshold<double>;
    case Dtype::float16:
      return threshold<float16>;
    case Dtype::bfloat16:
      return threshold<bfloat16>;
    default:
      return threshold<float>;
  }
}

SEPTET_ISA_END
}  // namespace septet
