"""Case rows of ``septet::threshold_quantile``."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import torch
from torch import Tensor

from septet.ops.table import CURRENT_OUTPUT, UNUSED, StepRow
from septet.ops.threshold import threshold_quantile
from septet.testing.cases import OpCase
from septet.testing.references.threshold import threshold_quantile as reference

IMAGE = (2, 3, 9, 7)

# The estimates spread widely, so that the quantiles lie above 1 and the clamp hides nothing.
FOLDED = StepRow(x0_sample=6.25, x0_output=-3.75)
DIVIDED = StepRow(x0_sample=5.0, x0_output=-3.0, x0_divisor=0.8, x0_clip=1.0)
GUIDED = dataclasses.replace(FOLDED, guidance_scale=3.0)
HALVED = StepRow(x0_sample=5.0, x0_output=-3.0, weights=(0.5, 0.0, 0.0, 0.0))
TWICE = StepRow(
    x0_sample=5.0,
    x0_output=-3.0,
    read_slots=(CURRENT_OUTPUT, UNUSED, CURRENT_OUTPUT, UNUSED),
    weights=(1.5, 0.0, -0.5, 0.0),
)
ZERO_SNR = StepRow(x0_sample=1.0, x0_output=-1.0, x0_divisor=0.0)


def _draw(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=generator).to(dtype)


def _case(
    name: str,
    row: StepRow = FOLDED,
    shape: tuple[int, ...] = IMAGE,
    ratio: float = 0.995,
    *,
    maximum: float = 100.0,
    guided: bool = False,
    variance: bool = False,
    channels_last: bool = False,
    levels: int = 0,
    replace: dict[int, float] | None = None,
) -> OpCase:
    """Make a row.

    Args:
        name: What is special about it.
        row: The coefficients.
        shape: Of the sample.
        ratio: The quantile.
        maximum: Largest bound.
        guided: Whether there is an unconditional output.
        variance: Whether the model outputs have twice the channels.
        channels_last: The memory layout.
        levels: Rounds the inputs to that many steps per unit, so that many estimates are equal.
        replace: Values of the first sample to be replaced, by index.
    """

    def inputs(dtype: torch.dtype) -> dict[str, Any]:
        g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        of_model = (shape[0], 2 * shape[1], *shape[2:]) if variance else shape
        tensors = {"sample": _draw(g, shape, dtype), "model_output": _draw(g, of_model, dtype)}
        if guided:
            tensors["uncond_output"] = _draw(g, of_model, dtype)
        for key, value in tensors.items():
            if levels:
                value = (value * levels).round() / levels
            if channels_last:
                value = value.contiguous(memory_format=torch.channels_last)
            tensors[key] = value
        for index, number in (replace or {}).items():
            tensors["sample"][0].view(-1)[index] = number
        return {
            **tensors,
            # The first row would scale everything by 100: a wrong row cannot hide.
            "table": torch.tensor([StepRow(x0_output=100.0).as_list(), row.as_list()], dtype=wide),
            "row": 1,
            "ratio": ratio,
            "maximum": maximum,
        }

    return OpCase("threshold_quantile", name, threshold_quantile, reference, inputs)


_NAN, _INF = float("nan"), float("inf")

CASES = [
    _case("usual"),
    _case("usual_channels_last", channels_last=True),
    _case("divided", DIVIDED),
    _case("guided", GUIDED, guided=True),
    _case("guided_channels_last", GUIDED, guided=True, channels_last=True),
    _case("variance", GUIDED, guided=True, variance=True),
    _case("variance_channels_last", GUIDED, guided=True, variance=True, channels_last=True),
    _case("weighted", HALVED),
    _case("two_terms", TWICE, channels_last=True),
    _case("median", ratio=0.5),
    _case("lowest", StepRow(x0_sample=0.1, x0_output=40.0), ratio=0.0),
    _case("highest", ratio=1.0),
    _case("ties", ratio=0.7, levels=2),
    _case("all_equal", StepRow(x0_output=0.0), ratio=0.3),
    _case("clamped", maximum=2.0),
    _case("maximum_below_one", maximum=0.5),
    _case("nan", replace={17: _NAN}),
    _case("infinite", ratio=0.9, replace={3: _INF, 5: -_INF}),
    _case("infinite_quantile", ratio=0.999, replace={3: _INF}),
    _case("zero_terminal_snr", ZERO_SNR),
    _case("sequence", shape=(2, 8, 131)),
    _case("vector", shape=(7,)),
    _case("one_element", shape=(1, 1, 1, 1)),
    _case("one_channel", shape=(3, 1, 5, 5)),
    _case("empty_batch", shape=(0, 3, 8, 8)),
    _case("whole_tiles", shape=(2, 4, 16, 16)),
    _case("several_threads", shape=(5, 3, 81, 83)),
    _case("split_sample", shape=(1, 3, 111, 111)),
    _case(
        "split_variance_channels_last", shape=(2, 3, 111, 112), variance=True, channels_last=True
    ),
]
