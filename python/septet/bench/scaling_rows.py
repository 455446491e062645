"""One network over many batches and image sizes: does time follow the number of operations?"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from septet.bench.model_rows import DDPM_CIFAR10, TIMESTEP, ModelSpec, facts, num_flops
from septet.bench.rows import Implementation, Row, Workload, shape_text
from septet.models import UNet2DModel

#: Batch, and height and width.
_SHAPES = (
    (1, 16), (4, 16), (16, 16), (1, 32), (2, 32), (4, 32), (8, 32), (16, 32), (1, 48), (1, 64),
    (4, 64), (1, 96),
)  # fmt: skip
SPECS = tuple(
    ModelSpec("ddpm-cifar10", DDPM_CIFAR10, (batch, 3, size, size)) for batch, size in _SHAPES
)


def rows() -> list[Row]:
    """Return a row per batch and size."""
    return [_row(spec) for spec in SPECS]


def _row(spec: ModelSpec) -> Row:
    name = f"scaling/{spec.name}/{shape_text(spec.shape)}"
    return Row("scaling", name, facts(spec), functools.partial(_build, spec))


@functools.lru_cache(maxsize=1)
def _network() -> UNet2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DModel(**DDPM_CIFAR10).eval().requires_grad_(False)


def _build(spec: ModelSpec) -> Workload:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(spec.shape, generator=generator)
    sample = sample.contiguous(memory_format=torch.channels_last)
    model = _network()

    def call() -> Tensor:
        output: Tensor = model(sample, TIMESTEP, return_dict=False)[0]
        return output

    # only its time is of interest, not that of somebody else
    only = Implementation("septet", call, lambda: [call()], None)
    return Workload((only,), "nothing", num_flops=num_flops(spec))
