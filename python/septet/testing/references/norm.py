"""Group normalisation with what follows it, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def group_norm_act(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str = "identity",
    scale_shift: Tensor | None = None,
    mask: Tensor | None = None,
    rest: Tensor | None = None,
) -> Tensor:
    """Return what :func:`septet.ops.group_norm_act` must return."""
    if rest is not None:
        input = torch.cat([input, rest], dim=1)
    hidden = F.group_norm(input, num_groups, weight, bias, eps)
    if scale_shift is not None:
        spread = scale_shift.reshape(*scale_shift.shape, *(1,) * (input.dim() - 2))
        scale, shift = spread.chunk(2, dim=1)
        hidden = hidden * (1 + scale) + shift
    if activation != "identity":
        hidden = {"silu": F.silu, "mish": F.mish}[activation](hidden)
    return hidden if mask is None else hidden * mask
