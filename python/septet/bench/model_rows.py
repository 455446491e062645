"""One evaluation of a network, with the same random weights in every implementation."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from septet.backend import use_backend
from septet.bench.rows import LAYOUTS, Implementation, Row, Workload, has_diffusers, shape_text
from septet.models import UNet2DModel

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
    ModelSpec("ddpm-cifar10", DDPM_CIFAR10, (1, 3, 32, 32)),
    ModelSpec("ddpm-cifar10", DDPM_CIFAR10, (4, 3, 32, 32)),
)


def rows() -> list[Row]:
    """Return a row per network and input."""
    return [_row(spec) for spec in SPECS]


def _row(spec: ModelSpec) -> Row:
    facts = {
        "model": spec.name, "weights": "random", "dtype": "float32",
        "shape": shape_text(spec.shape), "timestep": TIMESTEP,
    }  # fmt: skip
    return Row("models", f"{spec.name}/{shape_text(spec.shape)}", facts, lambda: _build(spec))


def _build(spec: ModelSpec) -> Workload:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = UNet2DModel(**spec.config).eval().requires_grad_(False)
        sample = torch.randn(spec.shape)
    exact = functools.partial(_exact, spec, own.state_dict(), sample)
    found = []
    if has_diffusers():
        make_peer = functools.partial(diffusers_model, spec, own.state_dict())
        for layout in LAYOUTS:
            found.append(_implementation("diffusers", make_peer(), sample, layout, exact, True))
    for layout in LAYOUTS:
        copy = UNet2DModel(**spec.config).eval().requires_grad_(False)
        copy.load_state_dict(own.state_dict())
        is_baseline = not found
        found.append(_implementation("septet", copy, sample, layout, exact, is_baseline))
    return Workload(tuple(found), "the same network in float64", num_flops=count_flops(own, sample))


def diffusers_model(spec: ModelSpec, weights: dict[str, Tensor]) -> nn.Module:
    """Make the network of diffusers with these weights."""
    peer: Any = importlib.import_module("diffusers").UNet2DModel
    model: nn.Module = peer(**spec.config).eval().requires_grad_(False)
    model.load_state_dict(weights)
    return model


def _implementation(
    name: str,
    model: nn.Module,
    sample: Tensor,
    layout: str,
    exact: Callable[[], list[Tensor]],
    is_baseline: bool,
) -> Implementation:
    memory_format = LAYOUTS[layout]
    model = model.to(memory_format=memory_format)  # type: ignore[call-overload]
    own_sample = sample.contiguous(memory_format=memory_format)

    def call() -> Tensor:
        output: Tensor = model(own_sample, TIMESTEP).sample
        return output

    return Implementation(f"{name} ({layout})", call, lambda: [call()], exact, is_baseline)


def _exact(spec: ModelSpec, weights: dict[str, Tensor], sample: Tensor) -> list[Tensor]:
    model = UNet2DModel(**spec.config).eval().requires_grad_(False)
    model.load_state_dict(weights)
    return [model.double()(sample.double(), TIMESTEP).sample]


def count_flops(model: nn.Module, sample: Tensor) -> int:
    """Count the operations of matrix products and convolutions; the others hardly matter."""
    # the counter knows torch's public operators only
    with use_backend("eager"), FlopCounterMode(display=False) as counter:
        model(sample, TIMESTEP)
    return int(counter.get_total_flops())
