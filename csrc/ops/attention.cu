// Attention on CUDA: the choice between the kernels, and of the width they are compiled for.
#include "launch/stream.cuh"
#include "ops/attention_fma.cuh"
#include "ops/attention_mma.cuh"
#include "ops/attention_torch.h"

namespace septet {
namespace {

// D in as few chunks as possible, each as narrow as a compiled width allows.
template <int... kWidths>
struct Widths {
  // Calls f(width as a constant, chunks).
  template <class F>
  static void choose(int64_t width, F f) {
    constexpr int kAll[] = {kWidths...};
    constexpr int64_t kWidest = kAll[sizeof...(kWidths) - 1];
    const int64_t chunks = (width + kWidest - 1) / kWidest;
    const int64_t needed = (width + chunks - 1) / chunks;
    bool found = false;
    const auto consider = [&](auto candidate) {
      if (found || candidate.value < needed) return;
      found = true;
      f(candidate, static_cast<int>(chunks));
    };
    (consider(std::integral_constant<int, kWidths>{}), ...);
  }
};
using MmaWidths = Widths<32, 48, 64, 80, 128, 160>;
using FmaWidths = Widths<40, 64, 80>;

unsigned attention_blocks(const AttentionArgs& args, int chunks) {
  const int64_t row_blocks = (args.queries + kAttentionRows - 1) / kAttentionRows;
  const int64_t blocks = args.samples * args.heads * row_blocks * chunks;
  require(blocks < (int64_t{1} << 31) && args.queries < (int64_t{1} << 30) &&
              args.keys < (int64_t{1} << 30),
          "attention", "query and key are too large for one launch on CUDA");
  return static_cast<unsigned>(blocks);
}

// Whether rows of D values of 16 bits can be copied in packs of 16 bytes.
bool in_packs(const AttentionArgs& args) {
  constexpr int64_t kPack = 8;
  bool aligned = args.width % kPack == 0;
  const auto consider = [&](const TokenView& view) {
    aligned = aligned && reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 &&
              view.sample % kPack == 0 && view.token % kPack == 0 && view.head % kPack == 0;
  };
  consider(args.query);
  consider(args.key);
  consider(args.value);
  if (args.prefix > 0) consider(args.prefix_key);
  if (args.prefix > 0) consider(args.prefix_value);
  return aligned && reinterpret_cast<std::uintptr_t>(args.out) % 16 == 0;
}

template <class T>
void run_fma(const AttentionArgs& args, cudaStream_t stream) {
  FmaWidths::choose(args.width, [&](auto width, int chunks) {
    launch(attention_fma_kernel<T, width.value>, attention_blocks(args, chunks), kAttentionBlock,
           FmaAttention<T, width.value>::kSharedBytes, stream, args, chunks);
  });
}

template <class T>
void run_mma(const AttentionArgs& args, cudaStream_t stream) {
  const bool packs = in_packs(args);
  MmaWidths::choose(args.width, [&](auto width, int chunks) {
    launch(attention_mma_kernel<T, width.value>, attention_blocks(args, chunks), kAttentionBlock,
           MmaAttention<T, width.value>::kSharedBytes, stream, args, chunks, packs);
  });
}

void run_attention(const AttentionTensors& tensors) {
  const AttentionArgs args = plan_attention(tensors);
  if (args.samples * args.heads * args.queries == 0) return;
  const int device = tensors.query.device;
  const DeviceScope scope(device);
  const bool half = tensors.query.dtype == Dtype::float16;
  if (tensors.query.dtype == Dtype::float32) return run_fma<float>(args, scope.stream());
  if (has_async_tensor_cores(device)) {
    return half ? run_mma<float16>(args, scope.stream()) : run_mma<bfloat16>(args, scope.stream());
  }
  return half ? run_fma<float16>(args, scope.stream()) : run_fma<bfloat16>(args, scope.stream());
}

}  // namespace
}  // namespace septet

#if defined(SEPTET_EMULATED)
SEPTET_LIBRARY_FRAGMENT(SEPTET_NAMESPACE, m) {
  m.def(septet::kAttentionSchema);
}
#endif

SEPTET_LIBRARY_IMPL(SEPTET_NAMESPACE, SEPTET_CUDA_KEY, m) {
  m.impl("attention", TORCH_BOX(&septet::boxed_attention<septet::run_attention>));
}
