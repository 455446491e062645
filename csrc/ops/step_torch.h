// The torch signature of the step, one for every device.
#pragma once

#include "ops/step.h"
#include "ops/torch.h"

namespace septet {

// Arguments in the order of kStepSchema; `run` receives them as views.
template <void (*run)(const StepTensors&)>
void boxed_step(Tensor sample, Tensor model_output, Tensor table, int64_t row, Tensor prev,
                std::optional<Tensor> original, std::optional<Tensor> slots,
                std::vector<Tensor> stored, std::optional<Tensor> uncond,
                std::optional<Tensor> counter, std::optional<Tensor> threshold,
                std::optional<Tensor> mu, std::optional<Tensor> mask, std::optional<Tensor> noise,
                std::optional<Tensor> philox, int64_t philox_increment, int64_t philox_threads) {
  StepTensors tensors;
  tensors.sample = view(sample);
  tensors.model_output = view(model_output);
  tensors.table = view(table);
  tensors.row = row;
  tensors.prev = view(prev);
  tensors.original = view(original);
  tensors.slots = view(slots);
  for (const Tensor& tensor : stored) tensors.stored.push_back(view(tensor));
  tensors.uncond = view(uncond);
  tensors.counter = view(counter);
  tensors.threshold = view(threshold);
  tensors.mu = view(mu);
  tensors.mask = view(mask);
  tensors.noise = view(noise);
  tensors.philox = view(philox);
  tensors.philox_increment = philox_increment;
  tensors.philox_threads = philox_threads;
  run(tensors);
}

template <void (*run)(const StepTensors&)>
void boxed_plain_step(Tensor sample, Tensor model_output, Tensor table, int64_t row, Tensor prev,
                      std::vector<Tensor> stored) {
  StepTensors tensors;
  tensors.sample = view(sample);
  tensors.model_output = view(model_output);
  tensors.table = view(table);
  tensors.row = row;
  tensors.prev = view(prev);
  for (const Tensor& tensor : stored) tensors.stored.push_back(view(tensor));
  run(tensors);
}

}  // namespace septet
