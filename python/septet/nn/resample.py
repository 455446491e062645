"""Halving and doubling the resolution, with a learned 3x3 convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

from septet.nn.conv import Conv2d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Downsample2D(nn.Module):
    """A 3x3 convolution of stride 2 that halves height and width.

    Args:
        channels: Channels of input and output.
        padding: 1 pads all four sides by one pixel. 0 pads only right and bottom, as TensorFlow's
            "same" padding does; the published DDPM checkpoints were trained that way.
    """

    def __init__(self, channels: int, padding: int = 1) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, kernel_size=3, stride=2, padding=padding)
        self.padding = padding

    def forward(self, sample: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C, H / 2, W / 2]``; halves round up if padded all round."""
        if self.padding == 0:
            sample = F.pad(sample, (0, 1, 0, 1))
        halved: Tensor = self.conv(sample)
        return halved


class Upsample2D(nn.Module):
    """Every pixel twice in each direction, then a 3x3 convolution.

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, sample: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C, 2 H, 2 W]``, or to exactly ``size``: height, width."""
        height, width = size or (2 * sample.shape[2], 2 * sample.shape[3])
        larger = F.interpolate(sample, size=(height, width), mode="nearest")
        result: Tensor = self.conv(larger)
        return result
