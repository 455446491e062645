"""Case rows of ``septet::wavenet_layer``."""

from __future__ import annotations

import zlib
from typing import Any

import torch

from septet.ops.wavenet import wavenet_layer
from septet.testing.cases import OpCase
from septet.testing.references.wavenet import wavenet_layer as reference


def layer_arguments(
    seed: int,
    shape: tuple[int, int, int],
    skip_channels: int,
    dtype: torch.dtype,
    *,
    step: int = 1,
    mask: bool = False,
    skips: bool = True,
) -> dict[str, Any]:
    """Make random arguments of the op, the same ones for the same seed.

    Args:
        seed: Of the generator.
        shape: B, N, C.
        skip_channels: S.
        dtype: Of all tensors.
        step: How many step embeddings there are, 1 or B.
        mask: Whether there is one; it cuts 2 positions off the end.
        skips: Whether earlier layers contributed.
    """
    g = torch.Generator().manual_seed(seed)
    batch, positions, width = shape

    def normal(*size: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(size, generator=g) * scale).to(dtype)

    arguments: dict[str, Any] = {
        "input": normal(*shape),
        "step": normal(step, width, scale=0.5),
        "mel": normal(batch, positions, 2 * width),
        "weight": normal(2 * width, width, 3, scale=(3 * width) ** -0.5),
        "bias": normal(2 * width, scale=0.1),
        "residual_weight": normal(width, width, 1, scale=width**-0.5),
        "residual_bias": normal(width, scale=0.1),
        "skip_weight": normal(skip_channels, width, 1, scale=width**-0.5),
        "skip_bias": normal(skip_channels, scale=0.1),
    }
    if mask:
        arguments["mask"] = torch.ones(batch, positions, dtype=dtype)
        arguments["mask"][:, -2:] = 0
    if skips:
        arguments["skips"] = normal(batch, positions, skip_channels)
    return arguments


def _case(
    name: str, shape: tuple[int, int, int], skip_channels: int, dilation: int, **options: Any
) -> OpCase:
    is_last = options.pop("is_last", False)
    extra = {"dtypes": options.pop("dtypes")} if "dtypes" in options else {}

    def inputs(dtype: torch.dtype) -> dict[str, Any]:
        seed = zlib.crc32(name.encode())
        arguments = layer_arguments(seed, shape, skip_channels, dtype, **options)
        return {**arguments, "dilation": dilation, "is_last": is_last}

    return OpCase("wavenet_layer", name, wavenet_layer, reference, inputs, bitwise=False, **extra)


CASES = [
    _case("published_width", (1, 50, 128), 128, 1),
    _case("dilated", (2, 90, 32), 32, 8),
    _case("dilation_beyond_the_ends", (1, 20, 16), 16, 512),
    _case("odd", (2, 67, 21), 13, 3),
    _case("wide", (1, 30, 200), 40, 2),
    _case("mask", (2, 41, 16), 24, 4, mask=True, step=2),
    _case("first", (2, 25, 16), 16, 2, skips=False),
    _case("last", (1, 300, 16), 16, 16, is_last=True),
    _case("one_position", (3, 1, 8), 8, 1, step=3),
    _case("one_channel", (1, 11, 1), 1, 2),
    _case("empty", (0, 8, 4), 4, 1),
]

#: A second of speech in the published network; for measurements.
LARGE = [_case("second", (1, 22016, 128), 128, 64, dtypes=(torch.float32,))]
