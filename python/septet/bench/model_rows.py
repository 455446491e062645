"""One evaluation of a network, with the same random weights in every implementation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from septet.backend import use_backend
from septet.bench import peers
from septet.bench.rows import LAYOUTS, Candidate, Loaded, Row, SeparateWorkload, shape_text
from septet.models import UNet2DModel
from septet.ops import use_convolution

#: The network of google/ddpm-cifar10-32 (Ho et al. 2020), 35.7 million parameters.
DDPM_CIFAR10: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
#: The network of google/ddpm-celebahq-256 and its like (Ho et al. 2020), 113.7 million parameters.
DDPM_256: dict[str, Any] = {
    **DDPM_CIFAR10,
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
}
#: What the network is told.
TIMESTEP = 500


@dataclass(frozen=True)
class ModelSpec:
    """One network on one input.

    Attributes:
        name: Of the network.
        config: Of a ``UNet2DModel``, here and in diffusers.
        shape: Of the input.
    """

    name: str
    config: dict[str, Any]
    shape: tuple[int, ...]


SPECS = (
    *(ModelSpec("ddpm-cifar10", DDPM_CIFAR10, (batch, 3, 32, 32)) for batch in (1, 4, 16)),
    ModelSpec("ddpm-256", DDPM_256, (1, 3, 256, 256)),
)


def rows() -> list[Row]:
    """Return a row per network and input."""
    return [_row(spec) for spec in SPECS]


def _row(spec: ModelSpec) -> Row:
    name = f"{spec.name}/{shape_text(spec.shape)}"
    return Row("models", name, facts(spec), functools.partial(build, spec))


def facts(spec: ModelSpec) -> dict[str, Any]:
    """Return what a record says of a case."""
    return {
        "model": spec.name, "weights": "random", "dtype": "float32",
        "shape": shape_text(spec.shape), "timestep": TIMESTEP,
    }  # fmt: skip


def build(spec: ModelSpec) -> SeparateWorkload:
    """List the candidates; nothing is allocated."""
    inputs = functools.partial(_inputs, spec)
    found = peers.candidates(peers.Network("diffusers:UNet2DModel", spec.config, inputs))
    for layout in LAYOUTS:
        load = functools.partial(load_septet, spec, layout, "auto")
        found.append(Candidate(f"septet ({layout})", load, is_baseline=not found))
    # the least memory that septet can do with
    found.append(
        Candidate("septet (SEPTET_CONV=direct)",
                  functools.partial(load_septet, spec, "channels_last", "direct"))
    )  # fmt: skip
    return SeparateWorkload(
        tuple(found),
        functools.partial(write_weights, spec),
        "the same network in float64",
        num_flops(spec),
        exact=functools.partial(_exact, spec),
        stay=True,
    )


def write_weights(spec: ModelSpec, folder: Path) -> None:
    """Save the network with random weights, the same every time."""
    torch.manual_seed(0)
    UNet2DModel(**spec.config).save_pretrained(folder)


def _inputs(spec: ModelSpec) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(spec.shape, generator=generator), torch.tensor(TIMESTEP)


def load_septet(spec: ModelSpec, layout: str, convolution: str, folder: Path) -> Loaded:
    """Load the network to run as it is called by hand.

    Args:
        spec: The network and its input.
        layout: Of the input, a key of :data:`LAYOUTS`.
        convolution: What ``SEPTET_CONV`` would say.
        folder: Where the weights are.
    """
    model = UNet2DModel.from_pretrained(folder).eval().requires_grad_(False)
    sample, timestep = _inputs(spec)
    sample = sample.contiguous(memory_format=LAYOUTS[layout])

    def call() -> Tensor:
        with use_convolution(convolution):
            output: Tensor = model(sample, timestep, return_dict=False)[0]
        return output

    return Loaded(call, lambda: [call()])


def _exact(spec: ModelSpec, folder: Path) -> list[Tensor]:
    model = UNet2DModel.from_pretrained(folder).double()
    sample, timestep = _inputs(spec)
    with use_backend("eager"):
        return [model(sample.double(), timestep).sample]


def num_flops(spec: ModelSpec) -> int:
    """Count the operations of matrix products and convolutions in one evaluation."""
    with torch.device("meta"):
        model = UNet2DModel(**spec.config)
        sample = torch.empty(spec.shape)
    return count_flops(functools.partial(model, sample, TIMESTEP))


def count_flops(call: Callable[[], object]) -> int:
    """Count the operations of matrix products and convolutions; the others hardly matter."""
    # the counter knows torch's public operators only
    with torch.no_grad(), use_backend("eager"), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())
