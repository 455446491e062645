// A layer of DiffWave on the CPU. The lanes of a vector are channels, rows are positions, and all
// products are those of a few rows with a panel of packed weights.
//
// A task transforms the inputs of its groups of positions (Winograd), multiplies them panel by
// panel, each of which holds the same channels of filter and gate, and keeps the gated results of
// all channels for the second product. All of it stays in the second-level cache. Every sum runs
// over the input channels in their order, whatever the vector width and the division into tasks.
#include "ops/wavenet.h"

#include "launch/lanes.h"

namespace septet {
SEPTET_ISA_BEGIN
namespace {

using Floats = Vector<float>;
using Run = WinogradRun;

// Sums of a block of rows, two vectors of weights and a broadcast fill the registers.
#if defined(__AVX512F__)
inline constexpr int kRows = 12;
#else
inline constexpr int kRows = 6;
#endif
inline constexpr int kPanel = 2 * kLanes;
// A block of rows lies as [C / kDepth][kRows][kDepth]: the distance of the rows is a constant.
inline constexpr int kDepth = 64;
inline constexpr int kAlignment = 16;  // floats: a cache line

inline int64_t vectors(int64_t channels) {
  return (channels + kLanes - 1) / kLanes;
}
inline int64_t block_size(int64_t channels) {
  return (channels + kDepth - 1) / kDepth * kRows * kDepth;
}
// Where channel c of a row lies in its block.
inline int64_t in_block(int64_t row, int64_t c) {
  return (c / kDepth * kRows + row) * kDepth + c % kDepth;
}

// products[r][i] = sum over k of rows[r][k] * weights[k][i], for a block of rows and a panel.
// Not inlined: the registers are all its own.
__attribute__((noinline)) void multiply(const float* rows, const float* weights, int64_t depth,
                                        float* products) {
  Floats sums[kRows][2];
  SEPTET_UNROLL
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = Floats(0.0f);
  for (int64_t first = 0; first < depth; first += kDepth, rows += kRows * kDepth) {
    const int64_t count = depth - first < kDepth ? depth - first : kDepth;
    for (int64_t k = 0; k < count; ++k, weights += kPanel) {
      const Floats left = Floats::load(weights), right = Floats::load(weights + kLanes);
      SEPTET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Floats value(rows[r * kDepth + k]);
        sums[r][0] = fma(value, left, sums[r][0]);
        sums[r][1] = fma(value, right, sums[r][1]);
      }
    }
  }
  SEPTET_UNROLL
  for (int r = 0; r < kRows; ++r) {
    sums[r][0].store(products + r * kPanel);
    sums[r][1].store(products + r * kPanel + kLanes);
  }
}

// Up to a vector of values; zeros beyond `count`.
template <class T>
HOST_DEVICE Floats load_channels(const T* from, int64_t count) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (count >= kLanes) return Floats::load(from);
  }
  float buffer[kLanes] = {};
  convert_from(from, buffer, count < kLanes ? count : kLanes);
  return Floats::load(buffer);
}

template <class T>
HOST_DEVICE void store_channels(Floats value, T* to, int64_t count) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (count >= kLanes) return value.store(to);
  }
  float buffer[kLanes];
  value.store(buffer);
  convert_to(buffer, to, count < kLanes ? count : kLanes);
}

// The panels: those of the convolution, [6][C][filter, gate], then those of the two 1x1 products,
// [C][2], whose vectors are first all of the residual and then all of the skip path. Their biases
// follow in the same order.
class Packed {
 public:
  explicit Packed(const WaveNetArgs& args)
      : args_(args),
        gates_(vectors(args.channels)),
        residuals_(args.out == nullptr ? 0 : vectors(args.channels)),
        shares_((residuals_ + vectors(args.skip_channels) + 1) / 2) {}

  int64_t gates() const { return gates_; }    // panels of the convolution
  int64_t shares() const { return shares_; }  // panels of the 1x1 products
  int64_t panels() const { return gates_ + shares_; }
  int64_t residuals() const { return residuals_; }  // vectors of the residual path
  int64_t size() const { return at_bias(panels()); }

  int64_t at(int64_t panel) const {
    const int64_t share = panel < gates_ ? 0 : panel - gates_;
    return ((panel - share) * Run::kInputs + share) * args_.channels * kPanel;
  }
  int64_t at_bias(int64_t panel) const { return at(panels()) + panel * kPanel; }

  template <class T>
  void pack(float* packed, int64_t panel) const {
    for (int i = 0; i < kPanel; ++i) {
      float* const to = packed + at(panel) + i;
      float* const bias = packed + at_bias(panel) + i;
      if (panel < gates_) {
        pack_gate<T>(panel * kLanes + i % kLanes, i / kLanes, to, bias);
      } else {
        pack_share<T>(2 * (panel - gates_) + i / kLanes, i % kLanes, to, bias);
      }
    }
  }

 private:
  // Channel c of the filter or of the gate.
  template <class T>
  void pack_gate(int64_t c, int half, float* to, float* bias) const {
    const bool exists = c < args_.channels;
    const int64_t row = half * args_.channels + c;
    const T* const weight = static_cast<const T*>(args_.weight) + row * args_.channels * kTaps;
    for (int64_t k = 0; k < args_.channels; ++k) {
      double taps[kTaps] = {}, points[Run::kInputs];
      for (int t = 0; exists && t < kTaps; ++t) {
        taps[t] = static_cast<double>(load_value(weight + k * kTaps + t));
      }
      Run::transform_weights(taps, points);
      for (int p = 0; p < Run::kInputs; ++p) {
        to[(p * args_.channels + k) * kPanel] = static_cast<float>(points[p]);
      }
    }
    *bias = exists ? load_value(static_cast<const T*>(args_.bias) + row) : 0.0f;
  }

  // A lane of a vector of the 1x1 products.
  template <class T>
  void pack_share(int64_t vector, int lane, float* to, float* bias) const {
    const bool residual = vector < residuals_;
    const int64_t c = (residual ? vector : vector - residuals_) * kLanes + lane;
    const bool exists = c < (residual ? args_.channels : args_.skip_channels);
    const T* const weight =
        static_cast<const T*>(residual ? args_.residual_weight : args_.skip_weight) +
        c * args_.channels;
    for (int64_t k = 0; k < args_.channels; ++k) {
      to[k * kPanel] = exists ? load_value(weight + k) : 0.0f;
    }
    const T* const biases = static_cast<const T*>(residual ? args_.residual_bias : args_.skip_bias);
    *bias = exists ? load_value(biases + c) : 0.0f;
  }

  const WaveNetArgs& args_;
  const int64_t gates_, residuals_, shares_;
};

template <class T>
class LayerTask {
 public:
  LayerTask(const WaveNetArgs& args, const float* packed)
      : args_(args),
        layout_(args),
        packed_(packed),
        most_(wavenet_groups_per_task(args)),
        groups_(wavenet_groups(args)),
        block_(block_size(args.channels)) {
    const int64_t channels = vectors(args.channels) * kLanes;
    const int64_t rows = most_ / kRows * block_;
    const int64_t sizes[] = {Run::kInputs * rows, Run::kOutputs * rows,
                             Run::kInputs * most_ * kPanel, channels, channels};
    float** const parts[] = {&inputs_, &gated_, &products_, &step_, &zeros_};
    int64_t total = kAlignment;
    for (int64_t size : sizes) total += (size + kAlignment - 1) / kAlignment * kAlignment;
    memory_ = new float[static_cast<std::size_t>(total)];
    float* next = memory_ + (kAlignment - reinterpret_cast<std::uintptr_t>(memory_) /
                                              sizeof(float) % kAlignment);
    for (int i = 0; i < static_cast<int>(sizeof(sizes) / sizeof(*sizes)); ++i) {
      *parts[i] = next;
      next += (sizes[i] + kAlignment - 1) / kAlignment * kAlignment;
    }
    for (int64_t c = 0; c < channels; ++c) zeros_[c] = step_[c] = 0.0f;
  }
  LayerTask(const LayerTask&) = delete;
  LayerTask& operator=(const LayerTask&) = delete;
  ~LayerTask() { delete[] memory_; }

  void run(int64_t task) {
    const int64_t per_sample = (groups_ + most_ - 1) / most_;
    sample_ = task / per_sample;
    first_ = task % per_sample * most_;
    count_ = groups_ - first_ < most_ ? groups_ - first_ : most_;
    blocks_ = (count_ + kRows - 1) / kRows;
    convert_from(static_cast<const T*>(args_.step) + sample_ * args_.step_stride, step_,
                 args_.channels);
    for (int64_t g = 0; g < blocks_ * kRows; ++g) {
      const int64_t d = args_.dilation, group = first_ + g;
      starts_[g] = g < count_ ? group / d * Run::kOutputs * d + group % d : args_.positions + d;
      load(g);
    }
    for (int64_t panel = 0; panel < layout_.gates(); ++panel) convolve(panel);
    for (int64_t block = 0; block < Run::kOutputs * blocks_; ++block) share(block);
  }

 private:
  // Output i of group g of the task; beyond the sequence if there is none.
  int64_t position(int64_t g, int64_t i) const { return starts_[g] + i * args_.dilation; }
  const T* input(int64_t position) const {
    return static_cast<const T*>(args_.input) +
           (sample_ * args_.positions + position) * args_.channels;
  }
  const T* mel(int64_t position) const {
    return static_cast<const T*>(args_.mel) +
           (sample_ * args_.positions + position) * 2 * args_.channels;
  }
  float mask(int64_t position) const {
    if (args_.mask == nullptr) return 1.0f;
    return load_value(static_cast<const T*>(args_.mask) + sample_ * args_.positions + position);
  }

  // The transformed inputs of a group. There are zeros on both sides of the sequence, also where a
  // group is missing.
  void load(int64_t g) {
    const T* rows[Run::kInputs];
    Floats masks[Run::kInputs];
    for (int k = 0; k < Run::kInputs; ++k) {
      const int64_t at = position(g, k - 1);
      const bool inside = at >= 0 && at < args_.positions;
      rows[k] = inside ? input(at) : nullptr;
      masks[k] = Floats(inside ? mask(at) : 0.0f);
    }
    float* const to = inputs_ + g / kRows * block_;
    for (int64_t c = 0; c < args_.channels; c += kLanes) {
      const Floats step = Floats::load(step_ + c);
      Floats values[Run::kInputs], points[Run::kInputs];
      SEPTET_UNROLL
      for (int k = 0; k < Run::kInputs; ++k) {
        const Floats x = rows[k] == nullptr ? Floats::load(zeros_)
                                            : load_channels(rows[k] + c, args_.channels - c);
        values[k] = shifted_input(x, step, masks[k]);
      }
      Run::transform_input(values, points);
      SEPTET_UNROLL
      for (int k = 0; k < Run::kInputs; ++k) {
        points[k].store(to + k * blocks_ * block_ + in_block(g % kRows, c));
      }
    }
  }

  // A vector of channels of filter and gate, for all groups.
  void convolve(int64_t panel) {
    const float* weights = packed_ + layout_.at(panel);
    const int64_t c = panel * kLanes, left = args_.channels - c;
    for (int64_t i = 0; i < Run::kInputs * blocks_; ++i) {
      multiply(inputs_ + i * block_, weights + i / blocks_ * args_.channels * kPanel,
               args_.channels, products_ + i * kRows * kPanel);
      // the next products hide the way from memory; all of it at once would block the caches
      constexpr int64_t kPart = kRows * Run::kOutputs / Run::kInputs;
      for (int64_t n = i * kPart; n < (i + 1) * kPart; ++n) {
        const int64_t at = position(n / Run::kOutputs, n % Run::kOutputs);
        if (at >= args_.positions) continue;
        __builtin_prefetch(mel(at) + c);
        __builtin_prefetch(mel(at) + args_.channels + c);
      }
    }
    const float* bias = packed_ + layout_.at_bias(panel);
    for (int64_t g = 0; g < blocks_ * kRows; ++g) {
      Floats filter[Run::kOutputs], gate[Run::kOutputs];
      load_products(g, 0, filter);
      load_products(g, kLanes, gate);
      SEPTET_UNROLL
      for (int i = 0; i < Run::kOutputs; ++i) {
        const int64_t at = position(g, i);
        Floats result(0.0f);
        if (at < args_.positions) {
          const T* const from = mel(at) + c;
          const Floats f = load_channels(from, left) + Floats::load(bias);
          const Floats b = load_channels(from + args_.channels, left) + Floats::load(bias + kLanes);
          result = gated(filter[i] + f, gate[i] + b);
        }
        result.store(gated_ + (i * blocks_ + g / kRows) * block_ + in_block(g % kRows, c));
      }
    }
  }

  void load_products(int64_t g, int half, Floats (&outputs)[Run::kOutputs]) const {
    Floats products[Run::kInputs];
    SEPTET_UNROLL
    for (int k = 0; k < Run::kInputs; ++k) {
      products[k] = Floats::load(products_ + (k * blocks_ * kRows + g) * kPanel + half);
    }
    Run::transform_output(products, outputs);
  }

  // What a block of positions gives to the residual and to the skip path.
  void share(int64_t block) {
    const int64_t first = block % blocks_ * kRows, output = block / blocks_;
    for (int64_t panel = 0; panel < layout_.shares(); ++panel) {
      const int64_t at = layout_.gates() + panel;
      for (int i = 0; i < 2 * kRows; ++i) {
        const int64_t row = position(first + i / 2, output);
        if (row < args_.positions) __builtin_prefetch(target(row, 2 * panel + i % 2), 1);
      }
      multiply(gated_ + block * block_, packed_ + layout_.at(at), args_.channels, products_);
      for (int i = 0; i < 2 * kRows; ++i) {
        const int64_t row = position(first + i / 2, output);
        if (row >= args_.positions) continue;
        const Floats bias = Floats::load(packed_ + layout_.at_bias(at) + i % 2 * kLanes);
        store(row, 2 * panel + i % 2, Floats::load(products_ + i * kLanes) + bias);
      }
    }
  }

  // Where a vector of the 1x1 products belongs, nullptr if there is none.
  T* target(int64_t position, int64_t vector) const {
    const int64_t row = sample_ * args_.positions + position;
    if (vector < layout_.residuals()) {
      return static_cast<T*>(args_.out) + row * args_.channels + vector * kLanes;
    }
    const int64_t c = (vector - layout_.residuals()) * kLanes;
    if (c >= args_.skip_channels) return nullptr;
    return static_cast<T*>(args_.skips) + row * args_.skip_channels + c;
  }

  void store(int64_t position, int64_t vector, Floats sum) const {
    T* const to = target(position, vector);
    if (to == nullptr) return;
    if (vector < layout_.residuals()) {
      const int64_t c = vector * kLanes, left = args_.channels - c;
      const Floats s = shifted_input(load_channels(input(position) + c, left),
                                     Floats::load(step_ + c), Floats(mask(position)));
      return store_channels(residual_output(s, sum), to, left);
    }
    const int64_t left = args_.skip_channels - (vector - layout_.residuals()) * kLanes;
    if (args_.accumulate) sum = sum + load_channels(to, left);
    store_channels(sum, to, left);
  }

  const WaveNetArgs& args_;
  const Packed layout_;
  const float* const packed_;
  const int64_t most_, groups_;  // groups of a task, of a sample
  const int64_t block_;          // floats of a block of rows
  float* memory_ = nullptr;
  float* inputs_;                     // [6][blocks] blocks: transformed inputs
  float* gated_;                      // [4][blocks] blocks: tanh times sigmoid
  float* products_;                   // [6][rows][kPanel]
  float *step_, *zeros_;              // [C]
  int64_t starts_[kMostGroups] = {};  // first position per group
  int64_t sample_ = 0, first_ = 0, count_ = 0, blocks_ = 0;
};

int64_t packed_size(const WaveNetArgs& args) {
  return Packed(args).size();
}

int64_t panels(const WaveNetArgs& args) {
  return Packed(args).panels();
}

template <class T>
void pack(const WaveNetArgs& args, float* packed, int64_t begin, int64_t end) {
  const Packed layout(args);
  for (int64_t panel = begin; panel < end; ++panel) layout.pack<T>(packed, panel);
}

template <class T>
void run(const WaveNetArgs& args, const float* packed, int64_t begin, int64_t end) {
  LayerTask<T> task(args, packed);
  for (int64_t i = begin; i < end; ++i) task.run(i);
}

template <class T>
WaveNetKernels kernels() {
  return {packed_size, panels, pack<T>, run<T>};
}

}  // namespace

WaveNetKernels wavenet_kernels(Dtype dtype) {
  switch (dtype) {
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
