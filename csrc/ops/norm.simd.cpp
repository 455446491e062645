// Group normalisation on the CPU: one pass for the statistics, one that normalises and activates.
//
// Sums run in a fixed order over vectors of a fixed width, whatever the instruction set, and go
// into float64 every few hundred values.
#include "ops/norm.h"

#include "launch/lanes.h"

namespace septet {
SEPTET_ISA_BEGIN
namespace {

// Channels that one pass over the pixels takes along in channels_last: a cache line or two.
inline constexpr int kSpan = 32;
inline constexpr int64_t kChunk = 256;
inline constexpr int kMaxGroups = kSpan;

// Reads `width` neighbouring values as arithmetic type: in place, or through a buffer of kSpan.
template <class T>
HOST_DEVICE const accumulator_t<T>* span_at(const T* source, int64_t width,
                                            accumulator_t<T>* buffer) {
  if constexpr (sizeof(T) == sizeof(accumulator_t<T>)) {
    if (width == kSpan) return source;
  }
  convert_from(source, buffer, width);
  return buffer;
}

// Likewise a run of `count` values: in place if it is a multiple of `stride`, else in a buffer of
// kChunk.
template <class T>
HOST_DEVICE const accumulator_t<T>* chunk_at(const T* source, int64_t count, int stride,
                                             accumulator_t<T>* buffer) {
  if constexpr (sizeof(T) == sizeof(accumulator_t<T>)) {
    if (count % stride == 0) return source;
  }
  convert_from(source, buffer, count);
  return buffer;
}

template <class T>
class NormTask {
  using A = accumulator_t<T>;
  using V = Vector<A>;

 public:
  explicit NormTask(const NormArgs& args) : args_(args), layout_(args.layout) {}

  // Sample n, groups [first, first + groups).
  void run(int64_t n, int64_t first, int64_t groups) {
    sample_ = n;
    for (int64_t g = 0; g < groups; ++g) moments_[g] = {0, 0, 0};
    first_group_ = first;
    const int64_t origin = first * args_.group_channels;
    const int64_t width = groups * args_.group_channels;
    if (layout_.channels_last) {
      measure_pixels(origin, width);
      for (int64_t c = 0; c < width; c += kSpan) {
        const int64_t span = width - c < kSpan ? width - c : kSpan;
        dispatch([&](auto activation) { apply_pixels(origin + c, span, activation); });
      }
    } else {
      measure_run(origin, width);
      for (int64_t c = origin; c < origin + width; ++c) {
        dispatch([&](auto activation) { apply_run(c, activation); });
      }
    }
  }

 private:
  template <int kActivation>
  struct Constant {
    static constexpr int value = kActivation;
  };

  // Turns the activation into a constant of the inner loop.
  template <class F>
  void dispatch(F f) {
    if (args_.activation == kSilu) {
      f(Constant<kSilu>{});
    } else if (args_.activation == kMish) {
      f(Constant<kMish>{});
    } else {
      f(Constant<kIdentity>{});
    }
  }

  const T* input() const {
    return static_cast<const T*>(args_.input) + sample_ * layout_.per_sample;
  }
  T* output() const { return static_cast<T*>(args_.out) + sample_ * layout_.per_sample; }
  Moments<double>& moments(int64_t channel) {
    return moments_[channel / args_.group_channels - first_group_];
  }

  void measure_pixels(int64_t origin, int64_t width) {
    for (int64_t pixel = 0; pixel < layout_.spatial; pixel += kChunk) {
      const int64_t left = layout_.spatial - pixel;
      const int64_t count = left < kChunk ? left : kChunk;
      for (int64_t c = 0; c < width; c += kSpan) {
        measure_block(pixel, count, origin + c, width - c < kSpan ? width - c : kSpan);
      }
    }
  }

  // Statistics of a block of pixels, channel by channel, about the block's first pixel.
  void measure_block(int64_t pixel, int64_t count, int64_t channel, int64_t width) {
    constexpr int kVectors = kSpan / V::size;
    const T* source = input() + pixel * layout_.channels + channel;
    alignas(64) A buffer[kSpan] = {}, about[kSpan] = {}, sums[kSpan], squares[kSpan];
    convert_from(source, about, width);
    ShiftedSums<V> totals[kVectors];
    SEPTET_UNROLL
    for (int i = 0; i < kVectors; ++i) totals[i] = {V(A(0)), V(A(0))};
    for (int64_t p = 0; p < count; ++p) {
      const A* x = span_at(source + p * layout_.channels, width, buffer);
      SEPTET_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        accumulate(totals[i], V::load(x + i * V::size), V::load(about + i * V::size));
      }
    }
    SEPTET_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      totals[i].sum.store(sums + i * V::size);
      totals[i].squares.store(squares + i * V::size);
    }
    for (int64_t i = 0; i < width; ++i) {
      Moments<double>& group = moments(channel + i);
      group = merge(group,
                    moments_of<double>(static_cast<double>(count), sums[i], squares[i], about[i]));
    }
  }

  // Statistics of the contiguous run of a group.
  void measure_run(int64_t channel, int64_t width) {
    // Sixteen floats (eight doubles) in as many registers as the instruction set needs.
    constexpr int kStride = static_cast<int>(64 / sizeof(A));
    constexpr int kParts = kStride / V::size;
    const T* source = input() + channel * layout_.spatial;
    const int64_t length = width * layout_.spatial;
    alignas(64) A buffer[kChunk], lanes[2][kStride];
    for (int64_t start = 0; start < length; start += kChunk) {
      const int64_t count = length - start < kChunk ? length - start : kChunk;
      const A* x = chunk_at(source + start, count, kStride, buffer);
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
      double sum = 0, squares = 0;
      for (int i = 0; i < kStride; ++i) {
        sum += lanes[0][i];
        squares += lanes[1][i];
      }
      Moments<double>& group = moments(channel);
      group = merge(group, moments_of<double>(static_cast<double>(count), sum, squares, about));
    }
  }

  double value_of(const void* data, int64_t index, double otherwise) const {
    return data == nullptr ? otherwise
                           : static_cast<double>(load_value(static_cast<const T*>(data) + index));
  }

  Affine<A> affine_of(int64_t channel) {
    const int64_t row = sample_ * args_.scale_shift_stride + channel;
    const Affine<double> affine = normalising_affine<double>(
        moments(channel), args_.eps, value_of(args_.weight, channel, 1),
        value_of(args_.bias, channel, 0), value_of(args_.scale_shift, row, 0),
        value_of(args_.scale_shift, row + layout_.channels, 0));
    return {static_cast<A>(affine.factor), static_cast<A>(affine.offset)};
  }

  A mask_at(int64_t pixel) const {
    return load_value(static_cast<const T*>(args_.mask) + sample_ * layout_.spatial + pixel);
  }

  template <class Act>
  void apply_pixels(int64_t channel, int64_t width, Act) {
    constexpr int kVectors = kSpan / V::size;
    alignas(64) A factors[kSpan] = {}, offsets[kSpan] = {}, buffer[kSpan] = {}, results[kSpan];
    for (int64_t i = 0; i < width; ++i) {
      const Affine<A> affine = affine_of(channel + i);
      factors[i] = affine.factor;
      offsets[i] = affine.offset;
    }
    const bool direct = sizeof(T) == sizeof(A) && width == kSpan;
    const T* source = input() + channel;
    T* target = output() + channel;
    for (int64_t p = 0; p < layout_.spatial; ++p) {
      const A* x = span_at(source + p * layout_.channels, width, buffer);
      A* y = direct ? reinterpret_cast<A*>(target + p * layout_.channels) : results;
      const V mask = args_.mask != nullptr ? V(mask_at(p)) : V(A(1));
      SEPTET_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        const int at = i * V::size;
        V value = fma(V::load(x + at), V::load(factors + at), V::load(offsets + at));
        value = activate(Act::value, value);
        if (args_.mask != nullptr) value = value * mask;
        value.store(y + at);
      }
      if (!direct) convert_to(results, target + p * layout_.channels, width);
    }
  }

  template <class Act>
  void apply_run(int64_t channel, Act) {
    const Affine<A> affine = affine_of(channel);
    const T* source = input() + channel * layout_.spatial;
    T* target = output() + channel * layout_.spatial;
    alignas(64) A buffer[kChunk] = {}, mask[kChunk] = {};
    for (int64_t start = 0; start < layout_.spatial; start += kChunk) {
      const int64_t left = layout_.spatial - start;
      const int64_t count = left < kChunk ? left : kChunk;
      const A* x = chunk_at(source + start, count, V::size, buffer);
      A* y = x == buffer ? buffer : reinterpret_cast<A*>(target + start);
      if (args_.mask != nullptr) {
        convert_from(static_cast<const T*>(args_.mask) + sample_ * layout_.spatial + start, mask,
                     count);
      }
      for (int64_t i = 0; i < count; i += V::size) {
        V value = fma(V::load(x + i), V(affine.factor), V(affine.offset));
        value = activate(Act::value, value);
        if (args_.mask != nullptr) value = value * V::load(mask + i);
        value.store(y + i);
      }
      if (y == buffer) convert_to(buffer, target + start, count);
    }
  }

  const NormArgs& args_;
  const Layout layout_;
  int64_t sample_ = 0, first_group_ = 0;
  Moments<double> moments_[kMaxGroups] = {};
};

template <class T>
void normalise(const NormArgs& args, int64_t begin, int64_t end) {
  const int64_t per_task = norm_groups_per_task(args);
  const int64_t tasks = (args.groups + per_task - 1) / per_task;
  NormTask<T> task(args);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = i % tasks * per_task;
    const int64_t left = args.groups - first;
    task.run(i / tasks, first, left < per_task ? left : per_task);
  }
}

}  // namespace

NormRange norm_range(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64:
      return normalise<double>;
    case Dtype::float16:
      return normalise<float16>;
    case Dtype::bfloat16:
      return normalise<bfloat16>;
    default:
      return normalise<float>;
  }
}

SEPTET_ISA_END
}  // namespace septet
