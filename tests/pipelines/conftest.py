from __future__ import annotations

import pytest
import torch

import septet

UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
}


@pytest.fixture(scope="session")
def unet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return septet.UNet2DModel(**UNET).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def diffusers_unet(unet):
    diffusers = pytest.importorskip("diffusers")
    twin = diffusers.UNet2DModel(**UNET).eval().requires_grad_(False)
    twin.load_state_dict(unet.state_dict())
    return twin
