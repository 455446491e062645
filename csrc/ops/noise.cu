// Normals on CUDA: a grid-stride loop over packs of up to 128 bits.
//
// Writes numel * sizeof(T) bytes and reads none. Four normals take one block of Philox4x32-10
// (about 100 integer operations) and two Box-Muller transforms (about 60 floating-point
// operations), in packs: bound by memory from float32 on, by arithmetic in the half precisions. The
// layout of torch takes a block for every element.
#include "ops/noise.h"

#include "launch/philox_cuda.cuh"
#include "launch/stream.cuh"
#include "ops/torch.h"

namespace septet {
namespace {

constexpr int kBlock = 256;

template <class T>
__global__ void __launch_bounds__(kBlock)
    fill_normal(const __grid_constant__ PhiloxArgs args, T* out, std::int64_t numel) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kBlock;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x; i < numel;
       i += stride) {
    store_value(out + i, static_cast<accumulator_t<T>>(normal_at(args, 1, i)));
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kBlock)
    fill_normal_packs(const __grid_constant__ PhiloxArgs args, T* out, std::int64_t numel) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kBlock * N;
  for (std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x) * N;
       i < numel; i += stride) {
    float normals[N];
    normals_at(args, 1, i, normals);
    Pack<T, N> pack;
    SEPTET_UNROLL
    for (int j = 0; j < N; ++j) store_value(pack.v + j, normals[j]);
    store_pack(out + i, pack);
  }
}

template <class T>
void launch_normal(const PhiloxArgs& args, const TensorView& out, cudaStream_t stream) {
  const std::int64_t numel = args.layout.numel;
  const std::int64_t most = 32 * multiprocessor_count(out.device);
  auto* const target = static_cast<T*>(out.data);
  constexpr int kPack = 16 / sizeof(T);
  if constexpr (kPack >= 4) {
    const bool aligned = reinterpret_cast<std::uintptr_t>(target) % 16 == 0;
    if (aligned && normals_come_in_packs(args, kPack)) {
      return launch(fill_normal_packs<T, kPack>, grid_size(numel / kPack, kBlock, most), kBlock, 0,
                    stream, args, target, numel);
    }
  }
  launch(fill_normal<T>, grid_size(numel, kBlock, most), kBlock, 0, stream, args, target, numel);
}

void philox_normal(Tensor out, Tensor philox, int64_t increment, int64_t threads) {
  const TensorView target = view(out);
  const PhiloxArgs args = plan_normal(target, view(philox), increment, threads);
  const DeviceScope device(target.device);
  switch (target.dtype) {
    case Dtype::float64:
      return launch_normal<double>(args, target, device.stream());
    case Dtype::float16:
      return launch_normal<float16>(args, target, device.stream());
    case Dtype::bfloat16:
      return launch_normal<bfloat16>(args, target, device.stream());
    default:
      return launch_normal<float>(args, target, device.stream());
  }
}

}  // namespace
}  // namespace septet

#if defined(SEPTET_EMULATED)
SEPTET_LIBRARY_FRAGMENT(SEPTET_NAMESPACE, m) {
  m.def(septet::kNormalSchema);
}
#endif

SEPTET_LIBRARY_IMPL(SEPTET_NAMESPACE, SEPTET_CUDA_KEY, m) {
  m.impl("philox_normal", TORCH_BOX(&septet::philox_normal));
}
