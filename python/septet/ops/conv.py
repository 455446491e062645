"""Convolution of images with weights that are packed once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from septet.ops import _library
from septet.ops._buffers import empty_channels_last
from septet.ops._dispatch import run, wants_reference

#: The algorithms of the kernel, by the number it takes: every tap multiplied, or Winograd's
#: F(2x2, 3x3) and F(4x4, 3x3) (Lavin and Gray 2016), named for the outputs of a tile. All read the
#: same packed weights; Winograd's transform is done on the way, in the cache.
ALGORITHMS = {"direct": 0, "winograd2": 2, "winograd4": 4}

# Output channels lie in groups of so many, and so do the elements of a sum.
_GROUP = 16


@dataclass(frozen=True)
class PackedWeight:
    """The weights of a convolution in the order in which the kernel reads them.

    Attributes:
        values: ``[groups of 16 output channels, taps and channels, 16]``.
        source: The weights ``[out_channels, in_channels, height, width]`` that were packed.
    """

    values: Tensor
    source: Tensor


def packed_floats(shape: Sequence[int]) -> int:
    """Return how many numbers packed weights hold.

    Args:
        shape: Of the weights, ``[out_channels, in_channels, height, width]``.
    """
    return math.prod(_packed_shape(shape))


def pack_conv2d(weight: Tensor) -> PackedWeight:
    """Bring weights into the order in which the kernel reads them.

    Args:
        weight: ``[out_channels, in_channels, height, width]``, float32 on the CPU.

    Raises:
        ValueError: If the weights have another shape or dtype.
    """
    if weight.dim() != 4:
        raise ValueError(
            "septet.conv2d_pack: weight must be [out_channels, in_channels, height, width], got "
            f"{list(weight.shape)}"
        )
    weight = weight.detach()
    if wants_reference():
        from septet.testing.references.conv import pack_conv2d as reference

        return PackedWeight(reference(weight), weight)
    values = torch.empty(_packed_shape(weight.shape))
    run(_library.ops().conv2d_pack.default, weight.contiguous(), values)
    return PackedWeight(values, weight)


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
    """Convolve, then add bias, shift and residual in this order.

    The bits of a sample's result depend neither on the other samples nor on threads.

    Args:
        input: ``[B, in_channels, H, W]``, float32 on the CPU; copied if it is not channels_last.
        weight: Of :func:`pack_conv2d`.
        bias: ``[out_channels]``.
        algorithm: "direct", "winograd2" or "winograd4"; the last two need 3x3 weights, stride 1 and
            dilation 1.
        stride: Of height and width, as the following two.
        padding: Zeros on both sides.
        dilation: Distance between taps.
        shift: ``[1 or B, out_channels]``, added to every pixel.
        residual: Of the shape of the result, or half as high and wide: then every pixel of it is
            repeated in both directions.
        upscale: 2 repeats every pixel of the input in both directions first.
        rest: ``[B, C', H, W]``, further channels behind those of ``input``, as if the two had been
            concatenated; for the direct algorithm and multiples of 16 channels in both.

    Returns:
        ``[B, out_channels, H', W']``, channels_last.

    Raises:
        ValueError: If an argument does not fit the others; the message names it.
    """
    if input.dim() != 4:
        raise ValueError(f"septet.conv2d: input must be [B, C, H, W], got {list(input.shape)}")
    if algorithm not in ALGORITHMS:
        raise ValueError(
            f"septet.conv2d: algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}"
        )
    source = weight.source
    channels = input.shape[1] + (0 if rest is None else rest.shape[1])
    # the packed weights do not tell, since their depth is padded
    if channels != source.shape[1]:
        raise ValueError(
            f"septet.conv2d: input must have the {source.shape[1]} channels of weight, got "
            f"{channels}"
        )
    if wants_reference(input, source, bias, shift, residual, rest):
        from septet.testing.references.conv import conv2d as reference

        return reference(
            input,
            weight,
            bias,
            algorithm=algorithm,
            stride=stride,
            padding=padding,
            dilation=dilation,
            shift=shift,
            residual=residual,
            upscale=upscale,
            rest=rest,
        )
    kernel_size = source.shape[2:]
    height, width = conv2d_output_size(
        input.shape[2:], kernel_size, stride, padding, dilation, upscale
    )
    out = empty_channels_last(input, (input.shape[0], source.shape[0], height, width))
    run(
        _library.ops().conv2d.default,
        input.contiguous(memory_format=torch.channels_last),
        rest if rest is None else rest.contiguous(memory_format=torch.channels_last),
        weight.values,
        kernel_size,
        ALGORITHMS[algorithm],
        bias,
        shift if shift is None else shift.contiguous(),
        None if residual is None else residual.contiguous(memory_format=torch.channels_last),
        stride,
        padding,
        dilation,
        upscale,
        out,
    )
    return out


def conv2d_output_size(
    size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    upscale: int = 1,
) -> tuple[int, int]:
    """Return height and width of the result of :func:`conv2d`, given those of its input."""
    return _output_size(
        tuple(size), tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), upscale
    )


@lru_cache(maxsize=1024)
def _output_size(
    size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    upscale: int,
) -> tuple[int, int]:
    # kept, because computing it takes longer than the smallest layers do
    height, width = (
        max(0, (pixels * upscale + 2 * pad - gap * (taps - 1) - 1) // max(1, step) + 1)
        for pixels, taps, step, pad, gap in zip(
            size, kernel_size, stride, padding, dilation, strict=True
        )
    )
    return height, width


def _packed_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    out_channels, *rows = shape
    return _groups(out_channels), _groups(math.prod(rows)) * _GROUP, _GROUP


def _groups(count: int) -> int:
    return -(-count // _GROUP)
