// A layer of DiffWave on CUDA: one kernel, whose blocks keep the gated activations of a run of
// positions in shared memory.
#include "functors/half.h"
#include "launch/stream.cuh"
#include "ops/wavenet_torch.h"

namespace septet {
namespace {

constexpr int kBlock = 256;
// A tile of the products: a thread has four positions, and two columns that lie kColumns apart.
constexpr int kPositions = 32, kColumns = 32;
constexpr int kPerThread = kPositions * kColumns / kBlock;
constexpr int kChannels = 16;  // of the input that are multiplied at a time
constexpr int kDepth = kTaps * kChannels;
// Rows begin in different banks.
constexpr int kStride = kDepth + 1;

constexpr std::int64_t kMostChannels = 1024;

template <class T>
struct WaveNetBlock {
  const WaveNetArgs& args;
  const std::int64_t sample, first;
  float* const rows;       // [kPositions][kStride]
  float* const weights;    // [2 * kColumns][kStride]
  float* const activated;  // [kPositions][C + 1]
  float sums[kPerThread][2];

  static std::size_t shared_bytes(const WaveNetArgs& args) {
    const std::int64_t floats =
        (kPositions + 2 * kColumns) * kStride + kPositions * (args.channels + 1);
    return static_cast<std::size_t>(floats) * sizeof(float);
  }

  __device__ WaveNetBlock(const WaveNetArgs& a, unsigned tiles)
      : args(a),
        sample(blockIdx.x / tiles),
        first(static_cast<std::int64_t>(blockIdx.x % tiles) * kPositions),
        rows(dynamic_shared<float>()),
        weights(rows + kPositions * kStride),
        activated(weights + 2 * kColumns * kStride) {}

  static __device__ int column() { return static_cast<int>(threadIdx.x) % kColumns; }
  static __device__ int row(int i) {
    return static_cast<int>(threadIdx.x) / kColumns + i * (kBlock / kColumns);
  }

  __device__ __forceinline__ std::int64_t at(std::int64_t position) const {
    return sample * args.positions + position;
  }
  __device__ __forceinline__ float value(const void* data, std::int64_t index) const {
    return load_value(static_cast<const T*>(data) + index);
  }

  // s of a channel, 0 beyond the ends.
  __device__ __forceinline__ float shifted(std::int64_t position, std::int64_t c) const {
    if (position < 0 || position >= args.positions || c >= args.channels) return 0.0f;
    return shifted_input(value(args.input, at(position) * args.channels + c),
                         value(args.step, sample * args.step_stride + c),
                         args.mask == nullptr ? 1.0f : value(args.mask, at(position)));
  }

  // Columns [k, k + kDepth) of 2 kColumns rows of a matrix [count][depth]: from `left` on, and then
  // from `right` on. Zeros where there is nothing.
  __device__ __forceinline__ void load_weights(const void* data, std::int64_t left,
                                               std::int64_t right, std::int64_t count,
                                               std::int64_t k, std::int64_t depth) {
    for (int i = static_cast<int>(threadIdx.x); i < 2 * kColumns * kDepth; i += kBlock) {
      const int n = i / kDepth;
      const std::int64_t index = n < kColumns ? left + n : right + n - kColumns, d = k + i % kDepth;
      weights[n * kStride + i % kDepth] =
          index < count && d < depth ? value(data, index * depth + d) : 0.0f;
    }
  }

  __device__ __forceinline__ void clear() {
    SEPTET_UNROLL
    for (int i = 0; i < kPerThread; ++i) sums[i][0] = sums[i][1] = 0.0f;
  }

  // Adds the product of a tile of rows and the weights at hand.
  __device__ __forceinline__ void multiply(const float* from, std::int64_t stride,
                                           std::int64_t depth) {
    __syncthreads();
    for (int k = 0; k < depth; ++k) {
      const float left = weights[column() * kStride + k];
      const float right = weights[(kColumns + column()) * kStride + k];
      SEPTET_UNROLL
      for (int i = 0; i < kPerThread; ++i) {
        const float x = from[row(i) * stride + k];
        sums[i][0] = fma(x, left, sums[i][0]);
        sums[i][1] = fma(x, right, sums[i][1]);
      }
    }
    __syncthreads();
  }

  // The dilated convolution for channels [c, c + kColumns) of filter and gate, and what follows.
  // Weights are taken as they lie, [2 C][C][3].
  __device__ __forceinline__ void convolve(std::int64_t c) {
    clear();
    for (std::int64_t k = 0; k < args.channels; k += kChannels) {
      for (int i = static_cast<int>(threadIdx.x); i < kPositions * kDepth; i += kBlock) {
        const int tap = i / kChannels % kTaps, p = i / kDepth;
        rows[p * kStride + i % kChannels * kTaps + tap] =
            shifted(first + p + (tap - 1) * args.dilation, k + i % kChannels);
      }
      // The last rows of the filter may be followed by some of the gate, which nobody uses.
      load_weights(args.weight, c, args.channels + c, 2 * args.channels, k * kTaps,
                   args.channels * kTaps);
      multiply(rows, kStride, kDepth);
    }
    const std::int64_t of = c + column();
    if (of >= args.channels) return;
    SEPTET_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      float result = 0.0f;
      if (first + row(i) < args.positions) {
        const std::int64_t mel = at(first + row(i)) * 2 * args.channels + of;
        const float f = value(args.mel, mel) + value(args.bias, of);
        const float g = value(args.mel, mel + args.channels) + value(args.bias, args.channels + of);
        result = gated(sums[i][0] + f, sums[i][1] + g);
      }
      activated[row(i) * (args.channels + 1) + of] = result;
    }
  }

  // Channels [c, c + 2 kColumns) of the residual or the skip path.
  __device__ __forceinline__ void share(bool residual, std::int64_t c) {
    const std::int64_t count = residual ? args.channels : args.skip_channels;
    const void* const bias = residual ? args.residual_bias : args.skip_bias;
    clear();
    for (std::int64_t k = 0; k < args.channels; k += kDepth) {
      load_weights(residual ? args.residual_weight : args.skip_weight, c, c + kColumns, count, k,
                   args.channels);
      const std::int64_t left = args.channels - k;
      multiply(activated + k, args.channels + 1, left < kDepth ? left : kDepth);
    }
    SEPTET_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      const std::int64_t position = first + row(i);
      SEPTET_UNROLL
      for (int half = 0; half < 2; ++half) {
        const std::int64_t of = c + half * kColumns + column();
        if (position >= args.positions || of >= count) continue;
        const float sum = sums[i][half] + value(bias, of);
        if (residual) {
          store_value(static_cast<T*>(args.out) + at(position) * count + of,
                      residual_output(shifted(position, of), sum));
        } else {
          T* const skips = static_cast<T*>(args.skips) + at(position) * count + of;
          store_value(skips, args.accumulate ? sum + load_value(skips) : sum);
        }
      }
    }
  }

  __device__ __forceinline__ void run() {
    for (std::int64_t c = 0; c < args.channels; c += kColumns) convolve(c);
    if (args.out != nullptr) {
      for (std::int64_t c = 0; c < args.channels; c += 2 * kColumns) share(true, c);
    }
    for (std::int64_t c = 0; c < args.skip_channels; c += 2 * kColumns) share(false, c);
  }
};

template <class T>
__global__ void __launch_bounds__(kBlock)
    wavenet_kernel(const __grid_constant__ WaveNetArgs args, unsigned tiles) {
  WaveNetBlock<T>(args, tiles).run();
}

template <class T>
void launch_wavenet(const WaveNetArgs& args, cudaStream_t stream) {
  const auto tiles = static_cast<unsigned>((args.positions + kPositions - 1) / kPositions);
  launch(wavenet_kernel<T>, static_cast<unsigned>(args.samples) * tiles, kBlock,
         WaveNetBlock<T>::shared_bytes(args), stream, args, tiles);
}

void run_wavenet(const WaveNetTensors& tensors) {
  const WaveNetArgs args = plan_wavenet(tensors);
  if (args.samples * args.positions == 0) return;
  require(args.channels <= kMostChannels, "wavenet_layer", "input may have at most ", kMostChannels,
          " channels on CUDA, got ", args.channels);
  require(args.samples * args.positions < (int64_t{1} << 31), "wavenet_layer",
          "input may have at most 2**31 - 1 positions on CUDA, got ",
          args.samples * args.positions);
  const DeviceScope scope(tensors.input.device);
  switch (tensors.input.dtype) {
    case Dtype::float16:
      return launch_wavenet<float16>(args, scope.stream());
    case Dtype::bfloat16:
      return launch_wavenet<bfloat16>(args, scope.stream());
    default:
      return launch_wavenet<float>(args, scope.stream());
  }
}

}  // namespace
}  // namespace septet

#if defined(SEPTET_EMULATED)
SEPTET_LIBRARY_FRAGMENT(SEPTET_NAMESPACE, m) {
  m.def(septet::kWaveNetSchema);
}
#endif

SEPTET_LIBRARY_IMPL(SEPTET_NAMESPACE, SEPTET_CUDA_KEY, m) {
  m.impl("wavenet_layer", TORCH_BOX(&septet::boxed_wavenet_layer<septet::run_wavenet>));
}
