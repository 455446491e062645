#include "ops/mt19937.h"

#include "launch/parallel.h"
#include "ops/torch.h"

namespace septet {
namespace {

constexpr int64_t kGrain = 8192;

void mt19937_normal(Tensor out, Tensor state) {
  const Mt19937Args args = plan_mt19937(view(out), view(state));
  draw_mt19937(args,
               [](int64_t count, const auto& range) { parallel_elements(count, kGrain, range); });
}

}  // namespace
}  // namespace septet

STABLE_TORCH_LIBRARY_FRAGMENT(septet, m) {
  m.def(septet::kMt19937Schema);
}

// CPU only: no other device has such a generator.
STABLE_TORCH_LIBRARY_IMPL(septet, CPU, m) {
  m.impl("mt19937_normal", TORCH_BOX(&septet::mt19937_normal));
}
