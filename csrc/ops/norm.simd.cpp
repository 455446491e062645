// Group normalisation on the CPU: one pass for the statistics, one that normalises and activates.
//
// Sums run in a fixed order over vectors of a fixed width, whatever the instruction set, and go
// into float64 every few hundred values.
#include "ops/norm.h"

#include "launch/lanes.h"

namespace septet {
SEPTET_ISA_BEGIN
namespace {

inline constexpr int64_t kChunk = 256;

template <int kActivation>
struct Constant {
  static constexpr int value = kActivation;
};

// Turns the activation into a constant of the inner loop.
template <class F>
void dispatch(int activation, F f) {
  if (activation == kSilu) {
    f(Constant<kSilu>{});
  } else if (activation == kMish) {
    f(Constant<kMish>{});
  } else {
    f(Constant<kIdentity>{});
  }
}

// Reads `count` values as arithmetic type: in place if they are a multiple of `stride`, else
// through the buffer.
template <class T>
HOST_DEVICE const accumulator_t<T>* values_at(const T* source, int64_t count, int stride,
                                              accumulator_t<T>* buffer) {
  if constexpr (sizeof(T) == sizeof(accumulator_t<T>)) {
    if (count % stride == 0) return source;
  }
  convert_from(source, buffer, count);
  return buffer;
}

// What both layouts share: the operands of one sample.
template <class T>
class NormSample {
 protected:
  using A = accumulator_t<T>;
  using V = Vector<A>;

  explicit NormSample(const NormArgs& args) : args_(args), layout_(args.layout) {}

  const T* input() const {
    return static_cast<const T*>(args_.input) + sample_ * layout_.per_sample;
  }
  T* output() const { return static_cast<T*>(args_.out) + sample_ * layout_.per_sample; }
  const T* mask() const { return static_cast<const T*>(args_.mask) + sample_ * layout_.spatial; }

  double value_of(const void* data, int64_t index, double otherwise) const {
    return data == nullptr ? otherwise
                           : static_cast<double>(load_value(static_cast<const T*>(data) + index));
  }

  Affine<A> affine_of(Standard<double> standard, int64_t channel) const {
    const int64_t row = sample_ * args_.scale_shift_stride + channel;
    const Affine<double> affine = normalising_affine<double>(
        standard, value_of(args_.weight, channel, 1), value_of(args_.bias, channel, 0),
        value_of(args_.scale_shift, row, 0),
        value_of(args_.scale_shift, row + layout_.channels, 0));
    return {static_cast<A>(affine.factor), static_cast<A>(affine.offset)};
  }

  const NormArgs& args_;
  const Layout layout_;
  int64_t sample_ = -1;
};

// A group of a sample, a contiguous run.
template <class T>
class RunTask : private NormSample<T> {
  using typename NormSample<T>::A;
  using typename NormSample<T>::V;
  using NormSample<T>::args_, NormSample<T>::layout_, NormSample<T>::sample_;

 public:
  explicit RunTask(const NormArgs& args) : NormSample<T>(args) {}

  void run(int64_t task) {
    sample_ = task / args_.groups;
    const int64_t channels = args_.group_channels, first = task % args_.groups * channels;
    const GroupSums<double> sums =
        measure(this->input() + first * layout_.spatial, channels * layout_.spatial);
    const Standard<double> standard = standard_of(sums, args_.eps);
    for (int64_t c = first; c < first + channels; ++c) {
      const Affine<A> affine = this->affine_of(standard, c);
      dispatch(args_.activation, [&](auto activation) { apply(c, affine, activation); });
    }
  }

 private:
  GroupSums<double> measure(const T* source, int64_t length) const {
    // Sixteen floats (eight doubles) in as many registers as the instruction set needs.
    constexpr int kStride = static_cast<int>(64 / sizeof(A));
    constexpr int kParts = kStride / V::size;
    alignas(64) A buffer[kChunk], lanes[2][kStride];
    GroupSums<double> group = {};
    for (int64_t start = 0; start < length; start += kChunk) {
      const int64_t count = length - start < kChunk ? length - start : kChunk;
      const A* x = values_at(source + start, count, kStride, buffer);
      const A about = x[0];
      // A tail filled with the shift itself adds nothing.
      for (int64_t i = count; i % kStride != 0; ++i) buffer[i] = about;
      ShiftedSums<V> totals[kParts];
      SEPTET_UNROLL
      for (int part = 0; part < kParts; ++part) totals[part] = {V(A(0)), V(A(0))};
      for (int64_t i = 0; i < count; i += kStride) {
        SEPTET_UNROLL
        for (int part = 0; part < kParts; ++part) {
          accumulate(totals[part], V::load(x + i + part * V::size), V(about));
        }
      }
      SEPTET_UNROLL
      for (int part = 0; part < kParts; ++part) {
        totals[part].sum.store(lanes[0] + part * V::size);
        totals[part].squares.store(lanes[1] + part * V::size);
      }
      GroupSums<double> chunk = {static_cast<double>(count), about, 0, 0};
      for (int i = 0; i < kStride; ++i) {
        chunk.sum += lanes[0][i];
        chunk.squares += lanes[1][i];
      }
      group = merge(group, chunk);
    }
    return group;
  }

  template <class Act>
  void apply(int64_t channel, Affine<A> affine, Act) {
    const T* source = this->input() + channel * layout_.spatial;
    T* target = this->output() + channel * layout_.spatial;
    for (int64_t start = 0; start < layout_.spatial; start += kChunk) {
      const int64_t left = layout_.spatial - start;
      const int64_t count = left < kChunk ? left : kChunk;
      const A* x = values_at(source + start, count, V::size, buffer_);
      A* y = x == buffer_ ? buffer_ : reinterpret_cast<A*>(target + start);
      if (args_.mask != nullptr) convert_from(this->mask() + start, mask_, count);
      for (int64_t i = 0; i < count; i += V::size) {
        V value = fma(V::load(x + i), V(affine.factor), V(affine.offset));
        value = activate(Act::value, value);
        if (args_.mask != nullptr) value = value * V::load(mask_ + i);
        value.store(y + i);
      }
      if (y == buffer_) convert_to(buffer_, target + start, count);
    }
  }

  // Filled once, since what lies behind a tail is computed too, if for nothing.
  alignas(64) A buffer_[kChunk] = {}, mask_[kChunk] = {};
};

// Not std::vector: its functions would be compiled for this instruction set, and the linker might
// let everybody share them.
template <class A>
class ChannelValues {
 public:
  // Room for a whole vector behind the last channel, so that loads may reach beyond it.
  explicit ChannelValues(int64_t channels) : values_(new A[channels + Vector<A>::size]()) {}
  ~ChannelValues() { delete[] values_; }
  ChannelValues(const ChannelValues&) = delete;
  ChannelValues& operator=(const ChannelValues&) = delete;

  A* from(int64_t channel) const { return values_ + channel; }

 private:
  A* values_;
};

// Blocks of pixels in channels_last.
template <class T>
class BlockTask : private NormSample<T> {
  using typename NormSample<T>::A;
  using typename NormSample<T>::V;
  using NormSample<T>::args_, NormSample<T>::layout_, NormSample<T>::sample_;

 public:
  explicit BlockTask(const NormArgs& args)
      : NormSample<T>(args),
        blocks_(norm_blocks(args)),
        pixels_(norm_block_pixels(args)),
        num_sources_(args.rest == nullptr ? 1 : 2),
        factors_(layout_.channels),
        offsets_(layout_.channels) {}

  // Sums of every group over one block.
  void measure(int64_t task, BlockSums* sums) {
    move_to(task);
    for (int64_t g = 0; g < args_.groups; ++g) {
      const int64_t channel = g * args_.group_channels;
      const Source& source = sources_[channel < args_.input_channels ? 0 : 1];
      sums[g] = {static_cast<double>(load_value(source.data + channel - source.begin)), 0, 0};
    }
    for (int i = 0; i < num_sources_; ++i) {
      const Source& source = sources_[i];
      // As many vectors of channels at a time as there are registers for.
      int64_t channel = source.begin;
      channel = measure_spans<4>(source, channel, sums);
      channel = measure_spans<2>(source, channel, sums);
      channel = measure_spans<1>(source, channel, sums);
      if (channel < source.end) measure_span<1>(source, channel, source.end - channel, sums);
    }
  }

  // `sums` are those of all tasks.
  void apply(int64_t task, const BlockSums* sums) {
    if (task / blocks_ != sample_) {
      sample_ = task / blocks_;
      combine(sums + sample_ * blocks_ * args_.groups);
    }
    move_to(task);
    dispatch(args_.activation, [&](auto activation) {
      args_.mask != nullptr ? apply_block<true>(activation) : apply_block<false>(activation);
    });
  }

 private:
  // Channels [begin, end) of the pixels of a block, which have no others there.
  struct Source {
    const T* data;
    int64_t begin, end;

    int64_t channels() const { return end - begin; }
  };

  void move_to(int64_t task) {
    sample_ = task / blocks_;
    first_ = task % blocks_ * pixels_;
    const int64_t left = layout_.spatial - first_;
    count_ = left < pixels_ ? left : pixels_;
    sources_[0] = source_of(args_.input, 0, args_.input_channels);
    sources_[1] = source_of(args_.rest, args_.input_channels, layout_.channels);
  }

  Source source_of(const void* data, int64_t begin, int64_t end) const {
    const int64_t pixel = sample_ * layout_.spatial + first_;
    return {static_cast<const T*>(data) + pixel * (end - begin), begin, end};
  }

  // Takes so many vectors of channels as long as there are; returns the first that is left.
  template <int kVectors>
  int64_t measure_spans(const Source& from, int64_t channel, BlockSums* sums) const {
    constexpr int64_t kSpan = kVectors * V::size;
    for (; channel + kSpan <= from.end; channel += kSpan) {
      measure_span<kVectors>(from, channel, kSpan, sums);
    }
    return channel;
  }

  // Calls f(i, group) for channels `channel` + i.
  template <class F>
  void for_groups(int64_t channel, int64_t width, F f) const {
    int64_t group = channel / args_.group_channels, next = (group + 1) * args_.group_channels;
    for (int64_t i = 0; i < width; ++i) {
      if (channel + i == next) {
        ++group;
        next += args_.group_channels;
      }
      f(i, group);
    }
  }

  template <int kVectors>
  void measure_span(const Source& from, int64_t channel, int64_t width, BlockSums* sums) const {
    constexpr int kSpan = kVectors * V::size;
    alignas(64) A buffer[kSpan] = {}, about[kSpan] = {}, lanes[2][kSpan];
    for_groups(channel, width,
               [&](int64_t i, int64_t group) { about[i] = static_cast<A>(sums[group].about); });
    ShiftedSums<V> totals[kVectors];
    SEPTET_UNROLL
    for (int i = 0; i < kVectors; ++i) totals[i] = {V(A(0)), V(A(0))};
    const T* source = from.data + channel - from.begin;
    for (int64_t p = 0; p < count_; ++p) {
      const A* x = values_at(source + p * from.channels(), width, kSpan, buffer);
      SEPTET_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        accumulate(totals[i], V::load(x + i * V::size), V::load(about + i * V::size));
      }
    }
    SEPTET_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      totals[i].sum.store(lanes[0] + i * V::size);
      totals[i].squares.store(lanes[1] + i * V::size);
    }
    for_groups(channel, width, [&](int64_t i, int64_t group) {
      sums[group].sum += lanes[0][i];
      sums[group].squares += lanes[1][i];
    });
  }

  // From the sums of a sample's blocks to the multiply-adds of its channels.
  void combine(const BlockSums* sums) {
    for (int64_t g = 0; g < args_.groups; ++g) {
      GroupSums<double> group = {};
      for (int64_t block = 0; block < blocks_; ++block) {
        const BlockSums& part = sums[block * args_.groups + g];
        const int64_t left = layout_.spatial - block * pixels_;
        const int64_t count = (left < pixels_ ? left : pixels_) * args_.group_channels;
        group = merge(group, {static_cast<double>(count), part.about, part.sum, part.squares});
      }
      const Standard<double> standard = standard_of(group, args_.eps);
      for (int64_t i = 0; i < args_.group_channels; ++i) {
        const int64_t channel = g * args_.group_channels + i;
        const Affine<A> affine = this->affine_of(standard, channel);
        *factors_.from(channel) = affine.factor;
        *offsets_.from(channel) = affine.offset;
      }
    }
  }

  template <bool kMask, class Act>
  void apply_block(Act activation) const {
    alignas(64) A buffer[kChunk] = {};
    T* target = this->output() + first_ * layout_.channels;
    for (int64_t p = 0; p < count_; ++p) {
      const A mask = kMask ? A(load_value(this->mask() + first_ + p)) : A(1);
      for (int i = 0; i < num_sources_; ++i) {
        const Source& from = sources_[i];
        const T* const pixel = from.data + p * from.channels();
        for (int64_t c = from.begin; c < from.end; c += kChunk) {
          const int64_t left = from.end - c;
          apply_run<kMask>(pixel + c - from.begin, c, left < kChunk ? left : kChunk, mask,
                           target + p * layout_.channels + c, buffer, activation);
        }
      }
    }
  }

  // Neighbouring channels of one pixel.
  template <bool kMask, class Act>
  void apply_run(const T* source, int64_t channel, int64_t count, A mask, T* target, A* buffer,
                 Act) const {
    const A* x = values_at(source, count, V::size, buffer);
    A* y = x == buffer ? buffer : reinterpret_cast<A*>(target);
    const A* factors = factors_.from(channel);
    const A* offsets = offsets_.from(channel);
    for (int64_t i = 0; i < count; i += V::size) {
      V value = fma(V::load(x + i), V::load(factors + i), V::load(offsets + i));
      value = activate(Act::value, value);
      if constexpr (kMask) value = value * V(mask);
      value.store(y + i);
    }
    if (y == buffer) convert_to(buffer, target, count);
  }

  const int64_t blocks_, pixels_;
  int64_t first_ = 0, count_ = 0;
  const int num_sources_;
  Source sources_[2] = {};
  const ChannelValues<A> factors_, offsets_;
};

template <class T>
void measure(const NormArgs& args, BlockSums* sums, int64_t begin, int64_t end) {
  BlockTask<T> task(args);
  for (int64_t i = begin; i < end; ++i) task.measure(i, sums + i * args.groups);
}

template <class T>
void apply(const NormArgs& args, BlockSums* sums, int64_t begin, int64_t end) {
  if (!args.layout.channels_last) {
    RunTask<T> task(args);
    for (int64_t i = begin; i < end; ++i) task.run(i);
    return;
  }
  // Backwards: the blocks that were measured last are still in the cache.
  BlockTask<T> task(args);
  for (int64_t i = end; i-- > begin;) task.apply(i, sums);
}

template <class T>
NormKernels kernels() {
  return {measure<T>, apply<T>};
}

}  // namespace

NormKernels norm_kernels(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64:
      return kernels<double>();
    case Dtype::float16:
      return kernels<float16>();
    case Dtype::bfloat16:
      return kernels<bfloat16>();
    default:
      return kernels<float>();
  }
}

SEPTET_ISA_END
}  // namespace septet
