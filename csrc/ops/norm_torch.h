// The torch signature of the group norm, one for every device.
#pragma once

#include "ops/norm.h"
#include "ops/torch.h"

namespace septet {

// Arguments in the order of kGroupNormSchema; `run` receives them as views.
template <void (*run)(const NormTensors&)>
void boxed_group_norm_act(Tensor input, std::optional<Tensor> rest, int64_t groups,
                          std::optional<Tensor> weight, std::optional<Tensor> bias, double eps,
                          int64_t activation, std::optional<Tensor> scale_shift,
                          std::optional<Tensor> mask, Tensor out) {
  run({view(input), view(rest), view(weight), view(bias), view(scale_shift), view(mask), view(out),
       groups, eps, activation});
}

}  // namespace septet
