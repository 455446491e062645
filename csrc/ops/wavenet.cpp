#include "launch/parallel.h"
#include "ops/wavenet_torch.h"

namespace septet {
namespace {

// Positions below which a second thread does not pay: a position takes about a microsecond.
constexpr int64_t kGrain = 64;

void run_wavenet(const WaveNetTensors& tensors) {
  const WaveNetArgs args = plan_wavenet(tensors);
  const WaveNetKernels kernels = SEPTET_CALL_ISA(wavenet_kernels, tensors.input.dtype);
  const int64_t work = args.samples * args.positions;
  run_wavenet_layer(args, kernels, [&](int64_t count, const auto& range) {
    parallel_shares(count, work, kGrain, range);
  });
}

}  // namespace
}  // namespace septet

STABLE_TORCH_LIBRARY_FRAGMENT(septet, m) {
  m.def(septet::kWaveNetSchema);
}

STABLE_TORCH_LIBRARY_IMPL(septet, CPU, m) {
  m.impl("wavenet_layer", TORCH_BOX(&septet::boxed_wavenet_layer<septet::run_wavenet>));
}
