// The torch signature of the threshold quantile, one for every device.
#pragma once

#include "ops/threshold.h"
#include "ops/torch.h"

namespace septet {

// Arguments in the order of kThresholdSchema; `run` receives them as views.
template <void (*run)(const ThresholdTensors&)>
void boxed_threshold_quantile(Tensor sample, Tensor model_output, Tensor table, int64_t row,
                              std::optional<Tensor> uncond, double ratio, double maximum,
                              Tensor out) {
  ThresholdTensors tensors;
  tensors.step.sample = view(sample);
  tensors.step.model_output = view(model_output);
  tensors.step.table = view(table);
  tensors.step.row = row;
  tensors.step.uncond = view(uncond);
  tensors.ratio = ratio;
  tensors.maximum = maximum;
  tensors.out = view(out);
  run(tensors);
}

}  // namespace septet
