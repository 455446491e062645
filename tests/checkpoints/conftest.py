"""One small network in the layout of diffusers, and its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from old_layouts import MODERN_CONFIG, MODERN_SCHEDULER
from torch import Tensor

from septet import DDPMPipeline, DDPMScheduler, UNet2DModel


@pytest.fixture(scope="session")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in today's layout; every weight random, biases and norms included."""
    root = tmp_path_factory.mktemp("modern") / "pipeline"
    torch.manual_seed(0)
    unet = UNet2DModel(**MODERN_CONFIG)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    DDPMPipeline(unet.eval(), DDPMScheduler(**MODERN_SCHEDULER)).save_pretrained(root)
    return root


@pytest.fixture(scope="session")
def unet(modern: Path) -> UNet2DModel:
    """Its network."""
    return UNet2DModel.from_pretrained(modern, subfolder="unet")


@pytest.fixture(scope="session")
def weights(unet: UNet2DModel) -> dict[str, Tensor]:
    """Its weights under today's names."""
    return unet.state_dict()
