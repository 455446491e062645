#include "launch/parallel.h"
#include "ops/norm_torch.h"

namespace septet {
namespace {

// Elements below which a second thread does not pay.
constexpr int64_t kGrain = 16384;

void run_norm(const NormTensors& tensors) {
  const NormArgs args = plan_norm(tensors);
  const NormKernels kernels = SEPTET_CALL_ISA(norm_kernels, tensors.input.dtype);
  normalise(args, kernels, [&](const auto& range) {
    parallel_tasks(norm_tasks(args), args.layout.numel, kGrain, range);
  });
}

}  // namespace
}  // namespace septet

STABLE_TORCH_LIBRARY_FRAGMENT(septet, m) {
  m.def(septet::kGroupNormSchema);
}

STABLE_TORCH_LIBRARY_IMPL(septet, CPU, m) {
  m.impl("group_norm_act", TORCH_BOX(&septet::boxed_group_norm_act<septet::run_norm>));
}
