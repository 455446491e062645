// The threshold quantile on CUDA: radix selection with a histogram in shared memory, one block per
// sample. Each pass computes x0 again and settles 11 bits of the value: three passes for float, six
// for double, and one for the next larger value where the quantile lies between two.
#include "launch/stream.cuh"
#include "ops/step_row.cuh"
#include "ops/threshold_torch.h"

namespace septet {
namespace {

constexpr int kBlock = 512;
constexpr int kDigitsPerThread = kDigits / kBlock;
using Histogram = SharedArray<unsigned, kDigits>;

template <class T>
struct OriginalOperands {
  using A = accumulator_t<T>;

  const T* sample_;
  const T* output_;
  const T* uncond_;
  unsigned at, output_at;

  __device__ A sample() const { return load_value(sample_ + at); }
  __device__ A model_output() const { return load_value(output_ + output_at); }
  __device__ A uncond() const { return load_value(uncond_ + output_at); }
  // Reached only through a table on the device, which nobody could check: the bound becomes NaN.
  __device__ A term(int) const { return static_cast<A>(NAN); }
};

// Calls f with the bits of |x0| of this thread's share of a sample, x0 being what the step
// computes.
template <class T, class F>
__device__ __forceinline__ void for_magnitudes(const StepArgs& args,
                                               const StepRow<accumulator_t<T>>& row,
                                               const StepFlags& flags, F f) {
  using A = accumulator_t<T>;
  const std::int64_t per_sample = args.layout.per_sample;
  const auto length = static_cast<unsigned>(per_sample);
  // Where the variance lies between the channels of pixels, outputs come in runs. 32 bits, because
  // 64-bit divisions are slow; plan_threshold() checks the length.
  const auto run = static_cast<unsigned>(args.block);
  const auto run_step = static_cast<unsigned>(args.output_block);
  const bool in_runs = args.block != args.output_block && args.block != per_sample;
  const std::int64_t origin = blockIdx.x * per_sample;
  const std::int64_t output_origin = args.block == args.output_block ? origin : 2 * origin;
  OriginalOperands<T> values;
  values.sample_ = static_cast<const T*>(args.sample) + origin;
  values.output_ = static_cast<const T*>(args.model_output) + output_origin;
  values.uncond_ = flags.uncond ? static_cast<const T*>(args.uncond) + output_origin : nullptr;
  for (unsigned i = threadIdx.x; i < length; i += kBlock) {
    values.at = i;
    values.output_at = in_runs ? i / run * run_step + i % run : i;
    const A m = guided_output<A>(row, flags, values);
    const A combined = combined_output<A>(row, flags, m, values);
    f(magnitude_bits(estimate_original(row, values.sample(), combined)));
  }
}

// What a digit of the wanted rank leaves to be found.
struct Choice {
  unsigned digit, skipped, size;
};

// Finds the digit that holds `rank` in a histogram, how many values have lower digits and how many
// this one. All threads must take part.
__device__ __forceinline__ Choice choose_digit(Histogram& counts, unsigned rank) {
  __shared__ SharedArray<unsigned, kBlock> sums;
  __shared__ Choice choice;
  const unsigned* mine = counts.data() + threadIdx.x * kDigitsPerThread;
  unsigned own = 0;
  SEPTET_UNROLL
  for (int i = 0; i < kDigitsPerThread; ++i) own += mine[i];
  sums[threadIdx.x] = own;
  __syncthreads();
  for (unsigned distance = 1; distance < kBlock; distance *= 2) {
    const unsigned lower = threadIdx.x >= distance ? sums[threadIdx.x - distance] : 0;
    __syncthreads();
    sums[threadIdx.x] += lower;
    __syncthreads();
  }
  unsigned skipped = sums[threadIdx.x] - own;
  if (skipped <= rank && rank < sums[threadIdx.x]) {
    int i = 0;
    while (rank >= skipped + mine[i]) skipped += mine[i++];
    choice = {threadIdx.x * kDigitsPerThread + static_cast<unsigned>(i), skipped, mine[i]};
  }
  __syncthreads();
  return choice;
}

template <class Bits>
__device__ __forceinline__ Bits block_minimum(Bits value) {
  __shared__ SharedArray<Bits, kBlock> least;
  least[threadIdx.x] = value;
  __syncthreads();
  for (unsigned distance = kBlock / 2; distance > 0; distance /= 2) {
    if (threadIdx.x < distance) {
      const Bits other = least[threadIdx.x + distance];
      if (other < least[threadIdx.x]) least[threadIdx.x] = other;
    }
    __syncthreads();
  }
  return least[0];
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    threshold_kernel(const __grid_constant__ ThresholdArgs args) {
  using A = accumulator_t<T>;
  using Bits = magnitude_t<A>;
  __shared__ Histogram counts;
  __shared__ unsigned not_numbers;
  const StepRow<A> row = device_row<T>(args.step, args.step.row);
  const StepFlags flags = step_flags(args.step, row);
  if (threadIdx.x == 0) not_numbers = 0;

  auto rank = static_cast<unsigned>(args.rank);
  unsigned size = 0;
  Bits digits = 0;
  for (int width = Magnitude<A>::bits; width > 0;) {
    const int shift = bits_below_digit(width);
    const unsigned mask = (1u << (width - shift)) - 1;
    for (unsigned i = threadIdx.x; i < kDigits; i += kBlock) counts[i] = 0;
    __syncthreads();
    for_magnitudes<T>(args.step, row, flags, [&](Bits bits) {
      if (bits > Magnitude<A>::infinity) atomicAdd(&not_numbers, 1u);
      if ((bits >> width) != digits) return;
      atomicAdd(&counts[static_cast<unsigned>(bits >> shift) & mask], 1u);
    });
    __syncthreads();
    const Choice choice = choose_digit(counts, rank);
    rank -= choice.skipped;
    size = choice.size;
    digits = digits << (width - shift) | static_cast<Bits>(choice.digit);
    width = shift;
  }

  Bits next = digits;
  if (args.weight > 0 && rank + 1 >= size) {
    Bits least = Magnitude<A>::largest;
    for_magnitudes<T>(args.step, row, flags, [&](Bits bits) {
      if (bits > digits && bits < least) least = bits;
    });
    next = block_minimum(least);
  }
  if (threadIdx.x != 0) return;
  const A bound = threshold_bound(from_magnitude(digits), from_magnitude(next),
                                  static_cast<A>(args.weight), static_cast<A>(args.maximum));
  static_cast<A*>(args.out)[blockIdx.x] = not_numbers > 0 ? static_cast<A>(NAN) : bound;
}

void run_threshold(const ThresholdTensors& tensors) {
  const ThresholdArgs args = plan_threshold(tensors);
  const DeviceScope scope(tensors.step.sample.device);
  const auto blocks = static_cast<unsigned>(args.samples);
  switch (tensors.step.sample.dtype) {
    case Dtype::float64:
      return launch(threshold_kernel<double>, blocks, kBlock, 0, scope.stream(), args);
    case Dtype::float16:
      return launch(threshold_kernel<float16>, blocks, kBlock, 0, scope.stream(), args);
    case Dtype::bfloat16:
      return launch(threshold_kernel<bfloat16>, blocks, kBlock, 0, scope.stream(), args);
    default:
      return launch(threshold_kernel<float>, blocks, kBlock, 0, scope.stream(), args);
  }
}

}  // namespace
}  // namespace septet

#if defined(SEPTET_EMULATED)
SEPTET_LIBRARY_FRAGMENT(SEPTET_NAMESPACE, m) {
  m.def(septet::kThresholdSchema);
}
#endif

SEPTET_LIBRARY_IMPL(SEPTET_NAMESPACE, SEPTET_CUDA_KEY, m) {
  m.impl("threshold_quantile", TORCH_BOX(&septet::boxed_threshold_quantile<septet::run_threshold>));
}
