// The torch signature of attention, one for every device.
#pragma once

#include "ops/attention.h"
#include "ops/torch.h"

namespace septet {

// Arguments in the order of kAttentionSchema; `run` receives them as views.
template <void (*run)(const AttentionTensors&)>
void boxed_attention(Tensor query, Tensor key, Tensor value, std::optional<Tensor> bias,
                     std::optional<Tensor> prefix_key, std::optional<Tensor> prefix_value,
                     double scale, Tensor out) {
  run({view(query), view(key), view(value), view(bias), view(prefix_key), view(prefix_value),
       view(out), scale});
}

}  // namespace septet
