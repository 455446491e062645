"""Convolution and packing of its weights in plain torch."""

from __future__ import annotations

import math
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
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    upscale: int = 1,
    rest: Tensor | None = None,
) -> Tensor:
    """Compute the result of :func:`septet.ops.conv2d`."""
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


# The points at which the polynomials of F(m, 3) are evaluated, infinity aside.
_POINTS = {
    "winograd2": (0.0, 1.0, -1.0),
    "winograd4": (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0)),
}


def pack_conv2d(weight: Tensor, algorithm: str = "direct") -> Tensor:
    """Compute the values of :func:`septet.ops.pack_conv2d`."""
    dtype, weight = weight.dtype, weight.double()
    if algorithm == "direct":
        planes = weight.permute(0, 2, 3, 1).flatten(1)[:, None]
    else:
        # Toom and Cook: 3 taps are a polynomial, divided by what Lagrange's formula asks for.
        points = _POINTS[algorithm]
        rows = [
            [
                point**power / math.prod(point - p for p in points if p != point)
                for power in (0, 1, 2)
            ]
            for point in points
        ]
        matrix = torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)
        # F(2, 3) is customarily written with the sign of its first point moved to the inputs.
        if algorithm == "winograd2":
            matrix[0] *= -1
        planes = torch.einsum("py,xq,kcyq->kpxc", matrix, matrix, weight).flatten(1, 2)
    depth, channels = planes.shape[2], planes.shape[0]
    planes = F.pad(planes, (0, -depth % 16, 0, 0, 0, -channels % 16))
    groups = planes.reshape(-1, 16, *planes.shape[1:])
    return groups.permute(0, 2, 3, 1).contiguous().to(dtype)
