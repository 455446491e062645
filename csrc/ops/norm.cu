// Group normalisation on CUDA: in one pass where a group fits into shared memory, else one block
// per group, with three reads of which the caches serve two, and one write.
//
// 2 numel sizeof(T) bytes to and from memory in one pass, up to twice that otherwise, and about ten
// floating-point operations per element, thirty more for SiLU or Mish. Bound by memory.
#include <algorithm>

#include "ops/norm_slab.cuh"
#include "ops/norm_torch.h"

namespace septet {
namespace {

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
__global__ void __launch_bounds__(kNormBlock) norm_kernel(const __grid_constant__ NormArgs args) {
  using A = accumulator_t<T>;
  const Layout& layout = args.layout;
  const std::int64_t sample = blockIdx.x / static_cast<unsigned>(args.groups);
  const unsigned group = blockIdx.x % static_cast<unsigned>(args.groups);
  const auto length = static_cast<unsigned>(args.group_channels * layout.spatial);
  const T* input = static_cast<const T*>(args.input) + sample * layout.per_sample;
  T* out = static_cast<T*>(args.out) + sample * layout.per_sample;

  A sum = 0;
  for (unsigned i = threadIdx.x; i < length; i += kNormBlock) {
    sum += load_value(input + element_of(args, group, i).place);
  }
  const A mean = block_sum(sum) / static_cast<A>(length);
  A squares = 0;
  for (unsigned i = threadIdx.x; i < length; i += kNormBlock) {
    const A difference = load_value(input + element_of(args, group, i).place) - mean;
    squares = fma(difference, difference, squares);
  }
  const Standard<A> standard =
      standard_of(mean, block_sum(squares) / static_cast<A>(length), static_cast<A>(args.eps));

  for (unsigned i = threadIdx.x; i < length; i += kNormBlock) {
    const auto [place, channel, pixel] = element_of(args, group, i);
    const Affine<A> affine = channel_affine<T>(args, standard, sample, channel);
    A y = activate(args.activation, fma(load_value(input + place), affine.factor, affine.offset));
    if (args.mask != nullptr) {
      y *= load_value(static_cast<const T*>(args.mask) + sample * layout.spatial + pixel);
    }
    store_value(out + place, y);
  }
}

template <class T>
void launch_norm(const NormArgs& args, int device, cudaStream_t stream) {
  constexpr int kPack = 16 / sizeof(T);
  const std::int64_t most = std::min(kMostSlabBytes, dynamic_shared_limit(device));
  NormSlab slab;
  if (plan_slab(args, kPack, sizeof(T), most, slab)) {
    launch(norm_slab_kernel<T, kPack>, slab.blocks, kNormBlock, slab.bytes, stream, args, slab);
  } else if (plan_slab(args, 1, sizeof(T), most, slab)) {
    launch(norm_slab_kernel<T, 1>, slab.blocks, kNormBlock, slab.bytes, stream, args, slab);
  } else {
    launch(norm_kernel<T>, static_cast<unsigned>(args.samples * args.groups), kNormBlock, 0, stream,
           args);
  }
}

void run_norm(const NormTensors& tensors) {
  const NormArgs args = plan_norm(tensors);
  require(!tensors.rest.present, "group_norm_act", "rest must be absent on CUDA");
  if (args.layout.numel == 0) return;
  require(args.layout.per_sample < (int64_t{1} << 31), "group_norm_act",
          "input may have at most 2**31 - 1 elements per sample on CUDA, got ",
          args.layout.per_sample);
  const int device = tensors.input.device;
  const DeviceScope scope(device);
  switch (tensors.input.dtype) {
    case Dtype::float64:
      return launch_norm<double>(args, device, scope.stream());
    case Dtype::float16:
      return launch_norm<float16>(args, device, scope.stream());
    case Dtype::bfloat16:
      return launch_norm<bfloat16>(args, device, scope.stream());
    default:
      return launch_norm<float>(args, device, scope.stream());
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
