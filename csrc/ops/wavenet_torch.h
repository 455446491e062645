// The torch signature of a layer of DiffWave, one for every device.
#pragma once

#include "ops/torch.h"
#include "ops/wavenet.h"

namespace septet {

// Arguments in the order of kWaveNetSchema; `run` receives them as views.
template <void (*run)(const WaveNetTensors&)>
void boxed_wavenet_layer(Tensor input, Tensor step, Tensor mel, Tensor weight, Tensor bias,
                         Tensor residual_weight, Tensor residual_bias, Tensor skip_weight,
                         Tensor skip_bias, std::optional<Tensor> mask, int64_t dilation,
                         bool accumulate, std::optional<Tensor> out, Tensor skips) {
  run({view(input), view(step), view(mel), view(weight), view(bias), view(residual_weight),
       view(residual_bias), view(skip_weight), view(skip_bias), view(mask), view(out), view(skips),
       dilation, accumulate});
}

}  // namespace septet
