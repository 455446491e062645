"""The two published architectures: their size, and that they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from septet import UNet2DModel

LAYOUTS = Path(__file__).resolve().parent.parent / "data" / "layouts"


def published(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((LAYOUTS / f"{name}.json").read_text())["config"]
    return config


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("diffusers_ddpm_cifar10_32_unet", 35_746_307),
        ("diffusers_ddpm_celebahq_256_unet", 113_673_219),
    ],
)
def test_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        unet = UNet2DModel(**published(name))
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters


@pytest.mark.parametrize(
    "name",
    [
        "diffusers_ddpm_cifar10_32_unet",
        pytest.param("diffusers_ddpm_celebahq_256_unet", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_runs_as_in_diffusers(name: str) -> None:
    config = published(name)
    torch.manual_seed(0)
    ours = UNet2DModel(**config).eval()
    sample = torch.randn(1, 3, config["sample_size"], config["sample_size"])
    output = ours(sample, 500).sample
    assert output.shape == sample.shape
    assert output.isfinite().all()
    theirs = pytest.importorskip("diffusers").UNet2DModel(**config).eval()
    theirs.load_state_dict(ours.state_dict())
    expected = theirs(sample, 500).sample
    assert (output - expected).abs().max() <= 1e-4 * expected.abs().max()
