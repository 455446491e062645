// The sampler step on CUDA: a grid-stride loop over packs of up to 128 bits.
//
// Per element: one access each of sample, model output, result and whatever else the row uses, so
// 3 sizeof(T) bytes for DDIM, 4 with a tensor of noise; about twenty floating-point operations, and
// forty more (integer ones included) for noise drawn here. Bound by memory, or by launch latency
// for small samples. Every tensor is accessed in packs of 128 bits, but for masks, learned
// variances and noise in torch's layout.
#include "launch/philox_cuda.cuh"
#include "launch/stream.cuh"
#include "ops/step_row.cuh"
#include "ops/step_torch.h"

namespace septet {
namespace {

// Small blocks, of which three at least fit: up to 170 registers, where blocks of 256 threads would
// leave room for one beyond 128.
constexpr int kBlock = 128;
constexpr int kResident = 3;

// The operands of N neighbouring elements; `at` is the one that step_element works on.
template <class T, int N>
struct StepPack {
  using A = accumulator_t<T>;

  int at;
  A x[N], m[N], u[N], v[N], s[N], p[N], k[N], z[N], terms[kStepTerms + 1][N];
  Pack<T, N> prev, original, saved, written;

  __device__ A sample() const { return x[at]; }
  __device__ A model_output() const { return m[at]; }
  __device__ A uncond() const { return u[at]; }
  __device__ A term(int index) const { return terms[index][at]; }
  __device__ A base() const { return terms[kStepTerms][at]; }
  __device__ A threshold() const { return s[at]; }
  __device__ A mu() const { return p[at]; }
  __device__ A mask() const { return k[at]; }
  __device__ A noise() const { return z[at]; }
  __device__ A variance() const { return v[at]; }
  __device__ void store_saved(A value) { store_value(saved.v + at, value); }
  __device__ void store_output(A value) { store_value(written.v + at, value); }
  __device__ void store_original(A value) { store_value(original.v + at, value); }
  __device__ void store_prev(A value) { store_value(prev.v + at, value); }
};

template <int N, class T>
__device__ __forceinline__ void load_flat(const T* source, accumulator_t<T> (&target)[N]) {
  const Pack<T, N> pack = load_pack<N>(source);
  SEPTET_UNROLL
  for (int j = 0; j < N; ++j) target[j] = load_value(pack.v + j);
}

template <class T, int N>
__device__ __forceinline__ void load_special(const StepArgs& args, const StepFlags& flags,
                                             std::int64_t position, int j, StepPack<T, N>& values) {
  const Layout& layout = args.layout;
  if (flags.learned) {
    values.v[j] =
        load_value(static_cast<const T*>(args.model_output) +
                   position / args.block * args.output_block + args.block + position % args.block);
  }
  if (flags.threshold) {
    values.s[j] =
        static_cast<const accumulator_t<T>*>(args.threshold)[position / layout.per_sample];
  }
  if (flags.mask) {
    const std::int64_t place =
        layout.channels_last
            ? position / layout.channels
            : position / layout.per_sample * layout.spatial + position % layout.spatial;
    values.k[j] = load_value(static_cast<const T*>(args.mask) + place);
  }
}

// Noise drawn here is rounded to the storage type, as a noise tensor would have been.
template <class T, int N, bool kDraws>
__device__ __forceinline__ void load_noise(const StepArgs& args, std::int64_t row,
                                           std::int64_t first, StepPack<T, N>& values) {
  if constexpr (!kDraws) {
    load_flat<N>(static_cast<const T*>(args.noise) + first, values.z);
  } else {
    float normals[N];
    if constexpr (N == 1) {
      normals[0] = normal_at(args.philox, row, first);
    } else {
      normals_at(args.philox, row, first, normals);
    }
    SEPTET_UNROLL
    for (int j = 0; j < N; ++j) {
      T rounded;
      store_value(&rounded, static_cast<accumulator_t<T>>(normals[j]));
      values.z[j] = load_value(&rounded);
    }
  }
}

template <class T>
__device__ __forceinline__ T* slot_at(const StepArgs& args, int slot) {
  return static_cast<T*>(args.slots[slot]);
}

// kDraws: noise comes from Philox, not from a tensor.
template <class T, int N, bool kDraws>
__global__ void __launch_bounds__(kBlock, kResident)
    step_kernel(const __grid_constant__ StepArgs args) {
  using A = accumulator_t<T>;
  const std::int64_t index = args.row + (args.counter != nullptr ? *args.counter : 0);
  const StepRow<A> row = device_row<T>(args, index);
  const StepFlags flags = step_flags(args, row);
  const std::int64_t numel = args.layout.numel;
  StepPack<T, N> values;

  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kBlock * N;
  for (std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x) * N;
       first < numel; first += stride) {
    const std::int64_t output = first / args.block * args.output_block + first % args.block;
    load_flat<N>(static_cast<const T*>(args.sample) + first, values.x);
    load_flat<N>(static_cast<const T*>(args.model_output) + output, values.m);
    if (flags.uncond) load_flat<N>(static_cast<const T*>(args.uncond) + output, values.u);
    if (flags.mu) load_flat<N>(static_cast<const T*>(args.mu) + first, values.p);
    SEPTET_UNROLL
    for (int term = 0; term <= kStepTerms; ++term) {
      const int slot = term < kStepTerms ? row.read_slots[term % kStepTerms] : row.base_slot;
      if (slot >= 0) load_flat<N>(slot_at<const T>(args, slot) + first, values.terms[term]);
    }
    if (flags.noise) load_noise<T, N, kDraws>(args, index, first, values);
    SEPTET_UNROLL
    for (int j = 0; j < N; ++j) {
      load_special(args, flags, first + j, j, values);
      values.at = j;
      step_element<A>(row, flags, values);
    }
    store_pack(static_cast<T*>(args.prev) + first, values.prev);
    if (flags.original) store_pack(static_cast<T*>(args.original) + first, values.original);
    if (flags.save) store_pack(slot_at<T>(args, row.save_slot) + first, values.saved);
    if (flags.write) store_pack(slot_at<T>(args, row.write_slot) + first, values.written);
  }
}

bool draws_noise(const StepArgs& args) {
  return args.noise == nullptr && args.philox.streams > 0;
}

// Whether packs of N never straddle a run of the model output, and every operand is aligned.
bool packs_fit(const StepArgs& args, int n, std::size_t bytes) {
  if (args.layout.numel % n != 0) return false;
  if (draws_noise(args) && !normals_come_in_packs(args.philox, n)) return false;
  if (args.output_block != args.block && args.block % n != 0) return false;
  const auto aligned = [bytes](const void* operand) {
    return reinterpret_cast<std::uintptr_t>(operand) % bytes == 0;
  };
  for (const void* slot : args.slots) {
    if (!aligned(slot)) return false;
  }
  return aligned(args.sample) && aligned(args.model_output) && aligned(args.uncond) &&
         aligned(args.mu) && aligned(args.noise) && aligned(args.prev) && aligned(args.original);
}

template <class T, int N, bool kDraws>
void launch_packs(const StepArgs& args, int device, cudaStream_t stream) {
  const std::int64_t packs = args.layout.numel / N;
  launch(step_kernel<T, N, kDraws>, grid_size(packs, kBlock, 64 * multiprocessor_count(device)),
         kBlock, 0, stream, args);
}

template <class T>
void launch_step(const StepArgs& args, int device, cudaStream_t stream) {
  constexpr int kPack = 16 / sizeof(T);
  const bool packs = packs_fit(args, kPack, 16);
  if (draws_noise(args)) {
    if constexpr (kPack >= 4) {
      if (packs) return launch_packs<T, kPack, true>(args, device, stream);
    }
    return launch_packs<T, 1, true>(args, device, stream);
  }
  if (packs) return launch_packs<T, kPack, false>(args, device, stream);
  launch_packs<T, 1, false>(args, device, stream);
}

void run_step(const StepTensors& tensors) {
  const StepArgs args = plan_step(tensors);
  const int device = tensors.sample.device;
  const DeviceScope scope(device);
  switch (tensors.sample.dtype) {
    case Dtype::float64:
      return launch_step<double>(args, device, scope.stream());
    case Dtype::float16:
      return launch_step<float16>(args, device, scope.stream());
    case Dtype::bfloat16:
      return launch_step<bfloat16>(args, device, scope.stream());
    default:
      return launch_step<float>(args, device, scope.stream());
  }
}

}  // namespace
}  // namespace septet

#if defined(SEPTET_EMULATED)
SEPTET_LIBRARY_FRAGMENT(SEPTET_NAMESPACE, m) {
  m.def(septet::kStepSchema);
  m.def(septet::kPlainStepSchema);
}
#endif

SEPTET_LIBRARY_IMPL(SEPTET_NAMESPACE, SEPTET_CUDA_KEY, m) {
  m.impl("step", TORCH_BOX(&septet::boxed_step<septet::run_step>));
  m.impl("step.plain", TORCH_BOX(&septet::boxed_plain_step<septet::run_step>));
}
