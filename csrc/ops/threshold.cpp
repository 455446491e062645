#include "launch/parallel.h"
#include "ops/threshold_torch.h"

namespace septet {
namespace {

// Elements below which a second thread does not pay.
constexpr int64_t kGrain = 16384;

void run_chunks(int64_t count, ChunkTask task, void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) task(context, i);
  });
}

void run_threshold(const ThresholdTensors& tensors) {
  const ThresholdArgs args = plan_threshold(tensors);
  if (args.samples == 0) return;
  const ThresholdRange range = SEPTET_CALL_ISA(threshold_range, tensors.step.sample.dtype);
  const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t chunks = args.step.layout.per_sample / kGrain;
  if (args.samples < threads && chunks > 1) {
    range(args, 0, args.samples, chunks < threads ? chunks : threads, run_chunks);
  } else {
    parallel_tasks(args.samples, args.step.layout.numel, kGrain,
                   [&](int64_t begin, int64_t end) { range(args, begin, end, 1, nullptr); });
  }
}

}  // namespace
}  // namespace septet

STABLE_TORCH_LIBRARY_FRAGMENT(septet, m) {
  m.def(septet::kThresholdSchema);
}

STABLE_TORCH_LIBRARY_IMPL(septet, CPU, m) {
  m.impl("threshold_quantile", TORCH_BOX(&septet::boxed_threshold_quantile<septet::run_threshold>));
}
