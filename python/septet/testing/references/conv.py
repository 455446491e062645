"""Convolution and packing of its weights in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from septet.ops.conv import PackedWeight


def conv2d(
    input: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    *,
    algorithm: str = "direct",
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    upscale: int = 1,
    rest: Tensor | None = None,
) -> Tensor:
    """Compute the result of :func:`septet.ops.conv2d`, which no algorithm changes."""
    del algorithm
    if rest is not None:
        input = torch.cat([input, rest], dim=1)
    if upscale != 1:
        input = F.interpolate(input, scale_factor=float(upscale), mode="nearest")
    hidden = F.conv2d(
        input, weight.source.to(input.dtype), bias, tuple(stride), tuple(padding), tuple(dilation)
    )
    if shift is not None:
        hidden = hidden + shift[:, :, None, None]
    if residual is not None and residual.shape != hidden.shape:
        residual = F.interpolate(residual, scale_factor=2.0, mode="nearest")
    return hidden if residual is None else hidden + residual


def pack_conv2d(weight: Tensor) -> Tensor:
    """Compute the values of :func:`septet.ops.pack_conv2d`."""
    rows = weight.permute(0, 2, 3, 1).flatten(1)
    padded = F.pad(rows, (0, -rows.shape[1] % 16, 0, -rows.shape[0] % 16))
    return padded.view(-1, 16, padded.shape[1]).transpose(1, 2).contiguous()
