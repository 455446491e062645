"""Halving and doubling the resolution, with a learned 3x3 convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.nn.conv import Conv2d, is_plain
from septet.nn.packing import KeepsCopies

if TYPE_CHECKING:
    from collections.abc import Sequence


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


class Upsample2D(KeepsCopies, nn.Module):
    """Every pixel twice in each direction, then a 3x3 convolution.

    For inference on the CPU our kernels read the small image as if it were the large one. Where
    torch computes, the two are one transposed convolution of stride 2 with a 4x4 kernel:
    where taps fall on the same pixel, their weights are added beforehand, which leaves 4 of 9
    products. The folded weights follow the convolution's as :class:`septet.nn.Conv2d` describes.

    Args:
        channels: Channels of input and output.
    """

    resample: Literal["up"] = "up"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, sample: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C, 2 H, 2 W]``, or to exactly ``size``: height, width."""
        doubled = (2 * sample.shape[2], 2 * sample.shape[3])
        height, width = size or doubled
        if (height, width) == doubled and is_plain(self.conv) and self.conv.infers(sample):
            if self.conv.algorithm(sample, upscale=2) != "torch":
                enlarged: Tensor = self.conv(sample, upscale=2)
                return enlarged
            if _CAN_TRANSPOSE:
                return _transposed(sample, self._folded_weight(), self.conv.bias)
        larger = F.interpolate(sample, size=(height, width), mode="nearest")
        result: Tensor = self.conv(larger)
        return result

    def _folded_weight(self) -> Tensor:
        folded: Tensor = self._copy_of(self.conv.weight, _folded, "folded")
        return folded


# Padding, output padding, stride, dilation and groups.
_TRANSPOSED_GEOMETRY = ((1, 1), (0, 0), (2, 2), (1, 1), 1)


def _folded(weight: Tensor) -> Tensor:
    folded = _fold(_fold(weight, 2), 3).transpose(0, 1).contiguous()
    reordered: Tensor = torch.ops.mkldnn._reorder_convolution_transpose_weight(
        folded, *_TRANSPOSED_GEOMETRY
    )
    return reordered


def _fold(weight: Tensor, axis: int) -> Tensor:
    """Turn 3 taps on doubled pixels into the 4 taps of a transposed convolution of stride 2.

    An even pixel 2i sees pixels i - 1, i, i; an odd one i, i, i + 1. In the transposed convolution
    pixel i reaches pixels 2i - 1 to 2i + 2 through taps 0 to 3.
    """
    left, middle, right = weight.unbind(axis)
    return torch.stack([right, middle + right, left + middle, left], dim=axis)


def _transposed(sample: Tensor, folded: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise.default(
        sample, folded, bias, *_TRANSPOSED_GEOMETRY, "none", [], ""
    )
    return result


def _can_transpose() -> bool:
    """Try the operators once: they belong to torch, but not to its stable interface."""
    try:
        with torch.no_grad():
            _transposed(torch.zeros(1, 1, 2, 2), Upsample2D(1)._folded_weight(), None)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


_CAN_TRANSPOSE = torch.backends.mkldnn.is_available() and _can_transpose()  # type: ignore[no-untyped-call]
