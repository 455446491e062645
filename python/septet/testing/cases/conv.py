"""Case rows of ``septet::conv2d`` and ``septet::conv2d_pack``."""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from torch import Tensor

from septet.ops.conv import conv2d, pack_conv2d
from septet.testing.cases import OpCase
from septet.testing.references.conv import conv2d as reference
from septet.testing.references.conv import pack_conv2d as packing_reference


def _case(
    name: str,
    shape: tuple[int, int, int, int],
    out_channels: int,
    algorithm: str = "direct",
    kernel: tuple[int, int] = (3, 3),
    *,
    bias: bool = True,
    shift: int | None = None,
    residual: bool | str = False,
    contiguous: bool = False,
    rest: int = 0,
    **geometry: Any,
) -> OpCase:
    def inputs(dtype: torch.dtype) -> dict[str, Any]:
        g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        x = torch.randn(shape, generator=g, dtype=dtype)
        weight = _weight(g, out_channels, shape[1], *kernel)
        arguments: dict[str, Any] = {
            "input": x if contiguous else x.contiguous(memory_format=torch.channels_last),
            "weight": pack_conv2d(weight),
            "algorithm": algorithm,
            "padding": (kernel[0] // 2, kernel[1] // 2),
            **geometry,
        }
        if rest:
            # the last channels, in memory of their own
            arguments["input"], arguments["rest"] = torch.split(x, [shape[1] - rest, rest], dim=1)
        if bias:
            arguments["bias"] = torch.randn(out_channels, generator=g)
        if shift is not None:
            arguments["shift"] = torch.randn(shift, out_channels, generator=g)
        if residual:
            with torch.no_grad():
                like = reference(**arguments)
            arguments["residual"] = torch.randn(like.shape, generator=g)
            if residual == "half":
                arguments["residual"] = arguments["residual"][..., ::2, ::2].contiguous()
        return arguments

    return OpCase("conv2d", name, conv2d, reference, inputs, dtypes=(torch.float32,), cuda=False)


def _weight(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=g) / math.sqrt(math.prod(shape[1:]))


def _packing(name: str, shape: tuple[int, int, int, int]) -> OpCase:
    def inputs(dtype: torch.dtype) -> dict[str, Any]:
        g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return {"weight": _weight(g, *shape).to(dtype)}

    def face(weight: Tensor) -> Tensor:
        return pack_conv2d(weight).values

    return OpCase(
        "conv2d_pack", name, face, packing_reference, inputs, dtypes=(torch.float32,), cuda=False
    )


CASES = [
    _case("odd_channels", (2, 5, 7, 6), 11),
    _case("whole_groups", (2, 32, 6, 5), 48, shift=2, residual=True),
    _case("one_pixel", (3, 20, 1, 1), 16, kernel=(1, 1)),
    _case("one_by_one", (2, 24, 6, 7), 40, kernel=(1, 1), shift=1, residual=True),
    _case("stride", (2, 16, 9, 8), 20, stride=(2, 2)),
    _case("stride_unpadded", (1, 8, 9, 8), 16, stride=(2, 2), padding=(0, 0)),
    _case("dilated_line", (2, 16, 1, 40), 32, kernel=(1, 3), dilation=(1, 4), padding=(0, 4)),
    _case("uneven", (1, 7, 6, 9), 5, kernel=(2, 5), stride=(1, 2), dilation=(3, 1)),
    _case("deep", (1, 96, 4, 4), 16),
    _case("many_rows", (2, 3, 17, 16), 33),
    _case("contiguous", (1, 6, 5, 5), 8, contiguous=True, residual=True),
    _case("no_bias", (1, 6, 5, 5), 8, bias=False),
    _case("upscaled", (2, 16, 5, 4), 16, upscale=2),
    _case("upscaled_residual", (2, 16, 5, 4), 21, upscale=2, residual=True),
    _case("half_residual", (2, 16, 6, 4), 21, residual="half"),
    _case("empty", (0, 6, 5, 5), 8),
    _case("rest", (2, 48, 6, 7), 40, kernel=(1, 1), rest=16, residual=True),
    _case("rest_of_taps", (2, 80, 9, 8), 20, rest=48, stride=(2, 2)),
    _case("rest_many_rows", (2, 32, 17, 16), 16, kernel=(1, 1), rest=16),
    *(
        row
        for algorithm in ("winograd2", "winograd4")
        for row in (
            _case(f"{algorithm}_odd", (2, 5, 7, 6), 11, algorithm, shift=2, residual=True),
            _case(f"{algorithm}_deep", (1, 160, 4, 4), 16, algorithm),
            _case(f"{algorithm}_unpadded", (1, 16, 6, 5), 24, algorithm, padding=(0, 0)),
            _case(f"{algorithm}_wide_padding", (1, 8, 4, 3), 16, algorithm, padding=(2, 3)),
            _case(f"{algorithm}_upscaled", (1, 8, 5, 6), 16, algorithm, upscale=2),
            _case(f"{algorithm}_half_residual", (2, 8, 10, 6), 20, algorithm, residual="half"),
            _case(f"{algorithm}_many_tiles", (2, 16, 57, 58), 4, algorithm),
        )
    ),
    _packing("odd", (11, 5, 3, 3)),
    _packing("whole_groups", (32, 16, 3, 3)),
    _packing("line", (16, 8, 1, 3)),
]

# conv2d itself is measured layer by layer, by septet.bench.conv_rows.
LARGE = [_packing("large", (256, 256, 3, 3))]
