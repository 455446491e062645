"""Case rows of ``septet::philox_normal``."""

from __future__ import annotations

from typing import Any

import torch

from septet.ops.noise import philox_normal
from septet.testing.cases import OpCase
from septet.testing.references import noise as references


def _reference(
    philox: torch.Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    threads: int = 0,
    increment: int = 0,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    shift = torch.tensor([[0, increment]])
    return references.philox_normal(philox + shift, shape, dtype, threads)


def _case(
    name: str, pairs: list[list[int]], shape: tuple[int, ...], double: bool = True, **options: Any
) -> OpCase:
    def inputs(dtype: torch.dtype) -> dict[str, Any]:
        return {"philox": torch.tensor(pairs), "shape": shape, "dtype": dtype, **options}

    dtypes = (torch.float32, torch.float16, torch.bfloat16) + (torch.float64,) * double
    return OpCase(
        "philox_normal",
        name,
        philox_normal,
        _reference,
        inputs,
        dtypes=dtypes,
        # curand's own logarithm and sine are part of torch's layout
        bitwise="threads" not in options,
        single=True,
    )


_LAST = torch.channels_last

CASES = [
    _case("one_stream", [[1234, 0]], (2, 3, 5, 7)),
    _case("per_sample", [[1, 0], [2**63 - 1, 2**35], [3, 4]], (3, 1001)),
    _case("per_sample_increment", [[1, 8], [2, 8]], (2, 3, 8, 8), increment=96),
    _case("channels_last", [[5, 0], [6, 0]], (2, 3, 4, 5), memory_format=_LAST),
    _case("torch_one_wave", [[42, 16]], (700,), double=False, threads=768),
    _case("torch_many_waves", [[42, 2**34]], (4099,), double=False, threads=256),
    _case("torch_per_sample", [[1, 0], [2, 4]], (2, 1500), double=False, threads=512),
    _case("torch_channels_last", [[9, 0]], (2, 3, 6, 5), False, threads=256, memory_format=_LAST),
    _case("empty", [[1, 0]], (0, 4)),
    _case("several_threads", [[77, 0]], (40001,)),
]
