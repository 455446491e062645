#include "ops/step.h"

#include "launch/parallel.h"
#include "ops/step_torch.h"

namespace septet {
namespace {

// Enough elements that a second thread pays; drawing noise costs several times more per element.
constexpr int64_t kGrain = 32768;
constexpr int64_t kNoiseGrain = 4096;

void run_step(const StepTensors& tensors) {
  const StepArgs args = plan_step(tensors);
  const StepRange range = SEPTET_CALL_ISA(step_range, tensors.sample.dtype);
  parallel_elements(args.layout.numel, args.philox.streams > 0 ? kNoiseGrain : kGrain,
                    [&](int64_t begin, int64_t end) { range(args, begin, end); });
}

}  // namespace
}  // namespace septet

STABLE_TORCH_LIBRARY_FRAGMENT(septet, m) {
  m.def(septet::kStepSchema);
  m.def(septet::kPlainStepSchema);
}

STABLE_TORCH_LIBRARY_IMPL(septet, CPU, m) {
  m.impl("step", TORCH_BOX(&septet::boxed_step<septet::run_step>));
  m.impl("step.plain", TORCH_BOX(&septet::boxed_plain_step<septet::run_step>));
}
