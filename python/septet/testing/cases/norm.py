"""Case rows of ``septet::group_norm_act``."""

from __future__ import annotations

import zlib
from typing import Any

import torch

from septet.ops.norm import group_norm_act
from septet.testing.cases import OpCase
from septet.testing.references.norm import group_norm_act as reference


def _case(
    name: str,
    shape: tuple[int, ...],
    groups: int,
    activation: str = "silu",
    *,
    channels_last: bool = False,
    offset: float = 0.0,
    affine: bool = True,
    scale_shift: int | None = None,
    mask: bool = False,
    rest: int = 0,
    dtypes: tuple[torch.dtype, ...] | None = None,
) -> OpCase:
    def inputs(dtype: torch.dtype) -> dict[str, Any]:
        g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        channels = shape[1]
        x = (torch.randn(shape, generator=g) * 1.5 + offset).to(dtype)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        arguments: dict[str, Any] = {
            "input": x,
            "num_groups": groups,
            "eps": 1e-5,
            "activation": activation,
        }
        if rest:
            # the last channels, in memory of their own
            arguments["input"], arguments["rest"] = (
                part.contiguous(memory_format=torch.channels_last)
                for part in torch.split(x, [channels - rest, rest], dim=1)
            )
        if affine:
            arguments["weight"] = (1 + 0.3 * torch.randn(channels, generator=g)).to(dtype)
            arguments["bias"] = (0.2 * torch.randn(channels, generator=g)).to(dtype)
        if scale_shift is not None:
            values = 0.3 * torch.randn(scale_shift, 2 * channels, generator=g)
            arguments["scale_shift"] = values.to(dtype)
        if mask:
            ones = torch.ones(shape[0], 1, *shape[2:], dtype=dtype)
            ones[..., -2:] = 0
            arguments["mask"] = ones
        return arguments

    extra: dict[str, Any] = {} if dtypes is None else {"dtypes": dtypes}
    # for CUDA the face concatenates the two
    return OpCase(
        "group_norm_act",
        name,
        group_norm_act,
        reference,
        inputs,
        bitwise=False,
        cuda=not rest,
        **extra,
    )


CASES = [
    _case("unet", (2, 64, 8, 8), 32),
    _case("unet_channels_last", (2, 64, 8, 8), 32, channels_last=True),
    _case("wide_groups_channels_last", (1, 96, 5, 7), 2, channels_last=True),
    _case("uneven_span_channels_last", (2, 40, 3, 5), 8, channels_last=True),
    _case("odd_channels_channels_last", (2, 21, 6, 6), 7, channels_last=True),
    _case("many_tasks_channels_last", (3, 128, 17, 9), 32, channels_last=True),
    _case("odd", (2, 15, 7, 9), 5),
    _case("identity", (2, 8, 5, 5), 4, "identity"),
    _case("mish_mask", (2, 16, 12, 21), 8, "mish", mask=True),
    _case("mish_mask_channels_last", (2, 16, 12, 21), 8, "mish", mask=True, channels_last=True),
    _case("no_affine", (2, 8, 5, 5), 4, affine=False),
    _case("scale_shift", (2, 32, 6, 6), 8, scale_shift=2),
    _case("scale_shift_shared", (3, 32, 6, 6), 8, scale_shift=1),
    _case("scale_shift_channels_last", (2, 32, 6, 6), 8, scale_shift=2, channels_last=True),
    _case("sequence", (2, 12, 301), 3),
    _case("no_spatial", (4, 24), 6),
    _case("instance", (2, 6, 11, 11), 6),
    _case("one_group", (2, 6, 11, 11), 1),
    _case("one_group_channels_last", (2, 48, 11, 11), 1, channels_last=True),
    _case("long", (1, 8, 70, 71), 2),
    _case("long_channels_last", (1, 8, 70, 71), 2, channels_last=True),
    # the mean is a thousand times the spread: squares about zero would lose the variance
    _case("far_from_zero", (1, 8, 9, 9), 2, offset=1000.0, dtypes=(torch.float64,)),
    _case("empty", (0, 8, 4, 4), 4),
    _case("rest", (2, 96, 7, 6), 8, channels_last=True, rest=32),
    _case("rest_within_a_group", (2, 60, 9, 9), 5, channels_last=True, rest=17, scale_shift=2),
    _case("rest_many_tasks", (1, 160, 17, 13), 32, channels_last=True, rest=64, mask=True),
]
