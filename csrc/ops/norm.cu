// Group normalisation on CUDA: one block per group of a sample, three reads of which the caches
// serve two, one write.
#include "functors/half.h"
#include "launch/stream.cuh"
#include "ops/norm_torch.h"

namespace septet {
namespace {

constexpr int kBlock = 256;

// Where element i of a group lies in its sample; the elements of a group are counted in memory
// order. 32 bits, because 64-bit divisions are slow and samples are small (checked below).
struct Element {
  unsigned place, channel, pixel;
};

__device__ __forceinline__ Element element_of(const NormArgs& args, unsigned group, unsigned i) {
  const auto channels = static_cast<unsigned>(args.layout.channels);
  const auto spatial = static_cast<unsigned>(args.layout.spatial);
  const auto width = static_cast<unsigned>(args.group_channels);
  if (args.layout.channels_last) {
    const unsigned pixel = i / width;
    const unsigned channel = group * width + i % width;
    return {pixel * channels + channel, channel, pixel};
  }
  const unsigned channel = group * width + i / spatial;
  const unsigned pixel = i % spatial;
  return {channel * spatial + pixel, channel, pixel};
}

template <class T>
__device__ __forceinline__ accumulator_t<T> value_or(const void* data, std::int64_t index,
                                                     accumulator_t<T> otherwise) {
  return data == nullptr ? otherwise : load_value(static_cast<const T*>(data) + index);
}

template <class T>
__global__ void __launch_bounds__(kBlock) norm_kernel(const __grid_constant__ NormArgs args) {
  using A = accumulator_t<T>;
  const Layout& layout = args.layout;
  const std::int64_t sample = blockIdx.x / static_cast<unsigned>(args.groups);
  const unsigned group = blockIdx.x % static_cast<unsigned>(args.groups);
  const auto length = static_cast<unsigned>(args.group_channels * layout.spatial);
  const T* input = static_cast<const T*>(args.input) + sample * layout.per_sample;
  T* out = static_cast<T*>(args.out) + sample * layout.per_sample;

  A sum = 0;
  for (unsigned i = threadIdx.x; i < length; i += kBlock) {
    sum += load_value(input + element_of(args, group, i).place);
  }
  const A mean = block_sum(sum) / static_cast<A>(length);
  A squares = 0;
  for (unsigned i = threadIdx.x; i < length; i += kBlock) {
    const A difference = load_value(input + element_of(args, group, i).place) - mean;
    squares = fma(difference, difference, squares);
  }
  const Standard<A> standard =
      standard_of(mean, block_sum(squares) / static_cast<A>(length), static_cast<A>(args.eps));

  for (unsigned i = threadIdx.x; i < length; i += kBlock) {
    const auto [place, channel, pixel] = element_of(args, group, i);
    const std::int64_t row = sample * args.scale_shift_stride + channel;
    const Affine<A> affine = normalising_affine<A>(
        standard, value_or<T>(args.weight, channel, 1), value_or<T>(args.bias, channel, 0),
        value_or<T>(args.scale_shift, row, 0),
        value_or<T>(args.scale_shift, row + layout.channels, 0));
    A y = activate(args.activation, fma(load_value(input + place), affine.factor, affine.offset));
    if (args.mask != nullptr) {
      y *= load_value(static_cast<const T*>(args.mask) + sample * layout.spatial + pixel);
    }
    store_value(out + place, y);
  }
}

void run_norm(const NormTensors& tensors) {
  const NormArgs args = plan_norm(tensors);
  if (args.layout.numel == 0) return;
  require(args.layout.per_sample < (int64_t{1} << 31), "group_norm_act",
          "input may have at most 2**31 - 1 elements per sample on CUDA, got ",
          args.layout.per_sample);
  const DeviceScope scope(tensors.input.device);
  const auto blocks = static_cast<unsigned>(args.samples * args.groups);
  switch (tensors.input.dtype) {
    case Dtype::float64:
      return launch(norm_kernel<double>, blocks, kBlock, 0, scope.stream(), args);
    case Dtype::float16:
      return launch(norm_kernel<float16>, blocks, kBlock, 0, scope.stream(), args);
    case Dtype::bfloat16:
      return launch(norm_kernel<bfloat16>, blocks, kBlock, 0, scope.stream(), args);
    default:
      return launch(norm_kernel<float>, blocks, kBlock, 0, scope.stream(), args);
  }
}

}  // namespace
}  // namespace septet

#if defined(SEPTET_EMULATED)
SEPTET_LIBRARY_FRAGMENT(SEPTET_NAMESPACE, m) {
  m.def(septet::kGroupNormSchema);
}
#endif

SEPTET_LIBRARY_IMPL(SEPTET_NAMESPACE, SEPTET_CUDA_KEY, m) {
  m.impl("group_norm_act", TORCH_BOX(&septet::boxed_group_norm_act<septet::run_norm>));
}
