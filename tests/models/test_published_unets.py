"""The published architectures: their size, and that they run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import stored
from septet import UNet2DConditionModel, UNet2DModel


def published(name: str) -> dict[str, Any]:
    config: dict[str, Any] = stored.layout(name)["config"]
    return config


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("diffusers_ddpm_cifar10_32_unet", 35_746_307),
        ("diffusers_ddpm_celebahq_256_unet", 113_673_219),
        ("diffusers_ldm_celebahq_256_unet", 274_056_163),
        ("diffusers_ldm_text2im_large_256_unet", 872_300_484),
        ("diffusers_sd15_unet", 859_520_964),
    ],
)
def test_number_of_parameters(name: str, parameters: int) -> None:
    config = published(name)
    model_class = UNet2DConditionModel if "cross_attention_dim" in config else UNet2DModel
    with torch.device("meta"):
        unet = model_class(**config)
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


@pytest.mark.slow
@torch.no_grad()
def test_a_text_conditional_network_of_full_width_runs_as_in_diffusers() -> None:
    # Stable Diffusion 1.5 without its lowest level and with half the layers, to fit in memory.
    config = published("diffusers_sd15_unet")
    for key in ("block_out_channels", "down_block_types"):
        config[key] = config[key][:3]
    config |= {"up_block_types": config["up_block_types"][1:], "layers_per_block": 1}
    torch.manual_seed(0)
    ours = UNet2DConditionModel(**config).eval()
    sample, text = torch.randn(2, 4, 32, 32), torch.randn(2, 77, 768)
    with torch.device("meta"):
        theirs = pytest.importorskip("diffusers").UNet2DConditionModel(**config).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    expected = theirs(sample, 500, text).sample
    output = ours(sample, 500, text).sample
    assert (output - expected).abs().max() <= 1e-5 * expected.abs().max()
    guided = ours.prepare(torch.tensor([500]), text[:1], text[1:])(sample[:1], 0)
    expected = theirs(sample[:1].expand(2, -1, -1, -1), 500, text).sample
    assert (torch.cat(guided) - expected).abs().max() <= 1e-5 * expected.abs().max()
