"""A layer of DiffWave in plain torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def wavenet_layer(
    input: Tensor,
    step: Tensor,
    mel: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual_weight: Tensor,
    residual_bias: Tensor,
    skip_weight: Tensor,
    skip_bias: Tensor,
    *,
    dilation: int,
    mask: Tensor | None = None,
    skips: Tensor | None = None,
    is_last: bool = False,
) -> tuple[Tensor | None, Tensor]:
    """Return what :func:`septet.ops.wavenet_layer` must return."""
    shifted = input + step[:, None]
    if mask is not None:
        shifted = shifted * mask[:, :, None]
    # as images of height 1, which oneDNN convolves fast at every dilation
    image = shifted.transpose(1, 2)[:, :, None]
    convolved = F.conv2d(
        image, weight[:, :, None], bias, padding=(0, dilation), dilation=(1, dilation)
    )
    filtered, gate = (convolved[:, :, 0].transpose(1, 2) + mel).chunk(2, dim=-1)
    activated = torch.tanh(filtered) * torch.sigmoid(gate)
    share = F.linear(activated, skip_weight[:, :, 0], skip_bias)
    if skips is not None:
        share = skips + share
    if is_last:
        return None, share
    residual = F.linear(activated, residual_weight[:, :, 0], residual_bias)
    return (shifted + residual) * math.sqrt(0.5), share
