"""Case rows of ``septet::attention``."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from septet.ops.attention import attention
from septet.ops.attention_table import use_attention
from septet.testing.cases import OpCase
from septet.testing.references.attention import attention as reference


def kernel(**arguments: Any) -> Tensor:
    """Call the kernel, whatever the table of winners says."""
    with use_attention("septet"):
        return attention(**arguments)


def _case(
    name: str,
    batch: int,
    queries: int,
    keys: int,
    heads: int,
    width: int,
    *,
    prefix: int = 0,
    packed: bool = False,
    bias: tuple[int, ...] | None = None,
    masked: bool = False,
    scale: float | None = None,
    spread: float = 1.0,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16),
) -> OpCase:
    """Make a row.

    Args:
        name: What is special about it.
        batch: B.
        queries: T.
        keys: S.
        heads: H.
        width: D.
        prefix: P, 0 for no prefix.
        packed: Whether tensors are slices of projections ``[B, tokens, H, 3 D]``.
        bias: Shape of a bias.
        masked: Whether the bias excludes keys, and all keys of one query.
        scale: Of the logits.
        spread: Standard deviation of queries and keys.
        dtypes: The kernel has no float64; its face sends that to the reference.
    """

    def inputs(dtype: torch.dtype) -> dict[str, Any]:
        g = torch.Generator().manual_seed(zlib.crc32(name.encode()))

        def tokens(count: int, parts: int) -> list[Tensor]:
            shape = (batch, count, heads, parts * width)
            found = torch.randn(shape, generator=g).to(dtype).chunk(parts, dim=-1)
            return list(found) if packed else [part.contiguous() for part in found]

        if packed and queries == keys:
            query, key, value = tokens(keys, 3)
        else:
            (query,), (key, value) = tokens(queries, 1), tokens(keys, 2)
        arguments: dict[str, Any] = {"query": query, "key": key, "value": value, "scale": scale}
        for scaled in (query, key):
            scaled.mul_(spread)
        if prefix:
            arguments["prefix_key"], arguments["prefix_value"] = tokens(prefix, 2)
        if bias is not None:
            values = torch.randn(bias, generator=g)
            if masked:
                values[..., 1::3] = -torch.inf
                values[..., values.shape[-2] // 2, :] = -torch.inf
            arguments["bias"] = values.to(dtype)
        return arguments

    return OpCase("attention", name, kernel, reference, inputs, bitwise=False, dtypes=dtypes)


_FLOAT = (torch.float32,)

CASES = [
    _case("self", 2, 33, 33, 2, 40, packed=True),
    _case("cross", 1, 20, 77, 3, 80, packed=True),
    _case("prefix", 2, 17, 50, 1, 64, prefix=30, packed=True),
    _case("contiguous", 1, 64, 64, 2, 32),
    _case("one_query", 2, 1, 9, 2, 8),
    _case("one_key", 1, 5, 1, 2, 16),
    _case("odd_width", 1, 9, 11, 2, 7),
    _case("width_1", 1, 6, 6, 1, 1),
    _case("width_160", 1, 18, 70, 1, 160),
    _case("width_200", 1, 18, 40, 1, 200),
    _case("width_512", 1, 35, 35, 1, 512),
    _case("several_tiles", 1, 70, 200, 1, 16),
    _case("several_tasks", 1, 260, 24, 1, 48),
    _case("bias", 2, 20, 30, 2, 24, bias=(2, 2, 20, 30)),
    _case("bias_prefix", 1, 20, 50, 2, 24, prefix=20, bias=(1, 1, 20, 70)),
    _case("bias_per_key", 2, 37, 66, 2, 16, bias=(2, 1, 1, 66)),
    _case("bias_per_query", 1, 37, 66, 1, 16, bias=(37, 1)),
    _case("masked", 1, 21, 70, 2, 16, bias=(1, 2, 21, 70), masked=True),
    _case("scale", 1, 20, 20, 1, 32, scale=1.0),
    _case("steep", 1, 20, 80, 1, 64, spread=3.0, dtypes=_FLOAT),
    _case("empty_batch", 0, 4, 4, 2, 8),
    _case("no_queries", 2, 0, 4, 2, 8),
]
