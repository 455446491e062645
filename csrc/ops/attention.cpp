#include "launch/parallel.h"
#include "ops/attention_torch.h"

namespace septet {
namespace {

// Products of a query and a key element below which a second thread does not pay.
constexpr int64_t kGrain = 1 << 19;

void run_attention(const AttentionTensors& tensors) {
  AttentionArgs args = plan_attention(tensors);
  args.task_rows = attention_task_rows(args, torch::stable::get_num_threads());
  const int64_t tasks = attention_tasks(args);
  if (tasks == 0) return;
  const AttentionRange range = SEPTET_CALL_ISA(attention_range, tensors.query.dtype);
  const int64_t work = args.samples * args.heads * args.queries * args.keys * args.width;
  parallel_shares(tasks, work, kGrain,
                  [&](int64_t begin, int64_t end) { range(args, begin, end); });
}

}  // namespace
}  // namespace septet

STABLE_TORCH_LIBRARY_FRAGMENT(septet, m) {
  m.def(septet::kAttentionSchema);
}

STABLE_TORCH_LIBRARY_IMPL(septet, CPU, m) {
  m.impl("attention", TORCH_BOX(&septet::boxed_attention<septet::run_attention>));
}
