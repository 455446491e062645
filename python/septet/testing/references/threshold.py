"""The bound of dynamic thresholding in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from septet.ops.table import CURRENT_OUTPUT, UNUSED, StepRow


def threshold_quantile(
    sample: Tensor,
    model_output: Tensor,
    table: Tensor,
    row: int = 0,
    *,
    ratio: float,
    maximum: float,
    uncond_output: Tensor | None = None,
) -> Tensor:
    """Return what :func:`septet.ops.threshold_quantile` must return."""
    r = StepRow.from_list(table[row].double().tolist())
    acc = torch.float64 if sample.dtype == torch.float64 else torch.float32
    if not sample.shape[0]:  # torch.quantile refuses it
        return torch.empty(0, dtype=acc, device=sample.device)
    channels = sample.shape[1] if sample.dim() > 1 else None
    # the first channels of a model output, or all of a vector
    output = (model_output if channels is None else model_output[:, :channels]).to(acc)
    if uncond_output is not None:
        u = (uncond_output if channels is None else uncond_output[:, :channels]).to(acc)
        output = u + r.guidance_scale * (output - u)
    combined = torch.zeros_like(output)
    for slot, weight in zip(r.read_slots, r.weights, strict=True):
        if slot == CURRENT_OUTPUT:
            combined = combined + weight * output
        elif slot != UNUSED:
            raise ValueError(
                f"septet.threshold_quantile: table row {row} reads slot {slot}; rows that combine "
                "stored outputs are not supported"
            )
    x0 = (r.x0_sample * sample.to(acc) + r.x0_output * combined) / r.x0_divisor
    bound = torch.quantile(x0.reshape(x0.shape[0], -1).abs(), ratio, dim=1)
    # maximum comes last, as in torch.clamp, where a maximum below 1 wins
    return bound.clamp(1.0, maximum)
