#include "ops/noise.h"

#include "launch/parallel.h"
#include "ops/torch.h"

namespace septet {
namespace {

constexpr int64_t kGrain = 4096;

void philox_normal(Tensor out, Tensor philox, int64_t increment, int64_t threads) {
  const TensorView target = view(out);
  const PhiloxArgs args = plan_normal(target, view(philox), increment, threads);
  const NormalRange range = SEPTET_CALL_ISA(normal_range, target.dtype);
  parallel_elements(args.layout.numel, kGrain,
                    [&](int64_t begin, int64_t end) { range(args, target.data, begin, end); });
}

}  // namespace
}  // namespace septet

STABLE_TORCH_LIBRARY_FRAGMENT(septet, m) {
  m.def(septet::kNormalSchema);
}

STABLE_TORCH_LIBRARY_IMPL(septet, CPU, m) {
  m.impl("philox_normal", TORCH_BOX(&septet::philox_normal));
}
