"""Attention at the shapes of the models: our kernel against torch's, with the copies that needs.

:func:`winners` turns the measurements into the table of :mod:`septet.ops.attention_table`, which
``tools/tune_attention.py`` writes.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from septet.bench.rows import Implementation, Row, Workload, shape_text
from septet.ops import attention
from septet.ops.attention_table import DEFAULTS, IMPLEMENTATIONS, Cell, cell, use_attention
from septet.testing.references.attention import attention as reference

_SINGLE = (torch.float32,)
_ALL = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class AttentionSpec:
    """One attention layer.

    Attributes:
        model: Where it occurs.
        batch: B; two where guidance doubles it.
        queries: T.
        keys: S. Where it equals ``queries``, all three are slices of one projection.
        heads: H.
        width: D.
        prefix: P.
        dtypes: What to run it in.
    """

    model: str
    batch: int
    queries: int
    keys: int
    heads: int
    width: int
    prefix: int = 0
    dtypes: tuple[torch.dtype, ...] = _SINGLE

    @property
    def num_flops(self) -> int:
        """Operations of the two products."""
        keys = self.prefix + self.keys
        return 4 * self.batch * self.heads * self.queries * keys * self.width

    def cell(self, device: str, dtype: torch.dtype) -> Cell:
        """Return its row of the table of winners."""
        return cell(device, _name(dtype), self.queries, self.prefix + self.keys, self.width)


def _levels(model: str, levels: Mapping[int, int], dtypes: tuple[torch.dtype, ...]) -> list[
    AttentionSpec
]:  # fmt: skip
    """Return self-attention and attention to 77 tokens of text, by tokens and width of a level."""
    return [
        AttentionSpec(model, 2, tokens, keys, 8, width, dtypes=dtypes)
        for tokens, width in levels.items()
        for keys in (tokens, 77)
    ]


SPECS = (
    *_levels("ldm-text2im-large", {1024: 40, 256: 80, 64: 160, 16: 160}, _ALL),
    *_levels("stable-diffusion-1.5", {4096: 40, 1024: 80, 256: 160}, _SINGLE),
    AttentionSpec("vae", 1, 1024, 1024, 1, 512),
    AttentionSpec("vae", 1, 4096, 4096, 1, 512),
    AttentionSpec("ddpm-cifar10", 1, 256, 256, 1, 256),
    AttentionSpec("glide", 2, 1024, 1024, 6, 64, 128, _ALL),
    AttentionSpec("glide", 2, 256, 256, 9, 64, 128, _ALL),
    AttentionSpec("glide", 2, 64, 64, 12, 64, 128, _ALL),
    AttentionSpec("glide-text", 2, 128, 128, 8, 64),
    AttentionSpec("ldm-bert", 2, 77, 77, 8, 64),
)
# The exact result of all queries of the longest rows would not fit into memory.
_COMPARED_QUERIES = 256


def rows() -> list[Row]:
    """Return a row per layer and dtype."""
    return [_row(spec, dtype) for spec in SPECS for dtype in spec.dtypes]


def _row(spec: AttentionSpec, dtype: torch.dtype) -> Row:
    shape = (spec.batch, spec.queries, spec.prefix + spec.keys, spec.heads, spec.width)
    facts = {
        "op": "attention",
        "row": spec.model,
        "dtype": _name(dtype),
        "shape": shape_text(shape),
    }
    name = f"attention/{spec.model}/{_name(dtype)}/{shape_text(shape)}"
    return Row("ops", name, facts, lambda: _build(spec, dtype))


def inputs(spec: AttentionSpec, dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor]:
    """Make the arguments of a call, as the projections of a network leave them."""
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int, *names: str) -> dict[str, Tensor]:
        channels = len(names) * spec.heads * spec.width
        packed = torch.randn(spec.batch, count, channels, generator=generator)
        parts = packed.to(device, dtype).chunk(len(names), dim=-1)
        views = (part.view(spec.batch, count, spec.heads, spec.width) for part in parts)
        return dict(zip(names, views, strict=True))

    prefix = tokens(spec.prefix, "prefix_key", "prefix_value") if spec.prefix else {}
    if spec.queries == spec.keys:
        return {**tokens(spec.keys, "query", "key", "value"), **prefix}
    return {**tokens(spec.queries, "query"), **tokens(spec.keys, "key", "value"), **prefix}


def calls(arguments: Mapping[str, Any]) -> dict[str, Callable[[], Tensor]]:
    """Return the same call of every implementation, by its name."""

    def call(name: str) -> Callable[[], Tensor]:
        def compute() -> Tensor:
            with use_attention(name):
                return attention(**arguments)

        return compute

    return {name: call(name) for name in IMPLEMENTATIONS}


def exact(arguments: Mapping[str, Tensor]) -> list[Tensor]:
    """Compute in float64 what :func:`compared` keeps of a result."""
    wide: dict[str, Any] = {name: value.double() for name, value in arguments.items()}
    wide["query"] = compared(wide["query"])[0]
    return [reference(**wide)]


def compared(result: Tensor) -> list[Tensor]:
    """Return the part of a result that is compared."""
    return [result[:, :_COMPARED_QUERIES]]


def _build(spec: AttentionSpec, dtype: torch.dtype) -> Workload:
    arguments = inputs(spec, dtype)
    of_all = functools.partial(exact, arguments)

    def result(call: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
        return lambda: compared(call())

    found = [
        Implementation(name, call, result(call), of_all, is_baseline=name == "sdpa")
        for name, call in calls(arguments).items()
    ]
    return Workload(tuple(found), "the plain-torch reference in float64", num_flops=spec.num_flops)


def winners(timings: Iterable[tuple[Cell, Mapping[str, float]]]) -> dict[Cell, str]:
    """Return the faster implementation of every cell.

    Args:
        timings: A cell and the seconds of each implementation; those of one cell are added. A
            lead of less than 5 % over the default is no lead.
    """
    totals: dict[Cell, dict[str, float]] = defaultdict(lambda: dict.fromkeys(IMPLEMENTATIONS, 0.0))
    for place, seconds in timings:
        for name, value in seconds.items():
            totals[place][name] += value
    found = {}
    for place, seconds in sorted(totals.items()):
        default = DEFAULTS[place[0]]
        fastest = min(seconds, key=lambda name: seconds[name])
        found[place] = fastest if seconds[fastest] < 0.95 * seconds[default] else default
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
