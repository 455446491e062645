"""The text-conditional UNet against diffusers, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from septet.models import UNet2DConditionModel

diffusers = pytest.importorskip("diffusers")

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
ALL_ATTEND: dict[str, Any] = {
    **SMALL,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "latent_diffusion_style": {
        **SMALL,
        "block_out_channels": (8, 16, 16, 24),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "stable_diffusion_2_style": {
        **ALL_ATTEND,
        "use_linear_projection": True,
        "upcast_attention": True,
        "attention_head_dim": (2, 4),
    },
    "several_transformer_layers": {
        **ALL_ATTEND,
        "layers_per_block": (1, 2),
        "transformer_layers_per_block": (2, 1),
    },
    "transformer_layers_per_layer": {
        **ALL_ATTEND,
        "layers_per_block": 2,
        "transformer_layers_per_block": [[1, 2], 2],
        "reverse_transformer_layers_per_block": [[2, 1, 1], 1],
    },
    "only_cross_attention": {**ALL_ATTEND, "only_cross_attention": (True, False)},
    "only_cross_attention_everywhere": {**SMALL, "only_cross_attention": True},
    "late_text": {
        **SMALL,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "text_on_the_way_up_only": {
        **SMALL,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "mid_block_scale_factor": 1.4,
    },
    "no_text": {
        **SMALL,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "mid_block_type": None,
    },
    "uneven_heads": {**ALL_ATTEND, "attention_head_dim": 3, "cross_attention_dim": (12, 12)},
    "scale_shift": {
        **SMALL,
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "mish",
        "center_input_sample": True,
        "time_embedding_dim": 20,
    },
    "published_time_of_ddpm": {
        **SMALL,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
        "act_fn": "gelu",
    },
    "kernels_and_channels": {
        **SMALL,
        "conv_in_kernel": 5,
        "conv_out_kernel": 1,
        "in_channels": 9,
        "out_channels": 8,
        "sample_size": (8, 12),
        "dropout": 0.2,
    },
    "one_level": {
        **SMALL,
        "block_out_channels": (8,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    },
    "class_table": {**SMALL, "num_class_embeds": 10},
    "class_timestep": {**SMALL, "class_embed_type": "timestep", "act_fn": "mish"},
    "class_identity": {**SMALL, "class_embed_type": "identity"},
}


def pair(name: str) -> tuple[UNet2DConditionModel, Any]:
    """Make our network and diffusers' with the same random weights."""
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(**CONFIGS[name]).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours = UNet2DConditionModel(**CONFIGS[name]).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(model: UNet2DConditionModel, batch: int = 3) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw a sample, a text and, for a class-conditional network, labels."""
    config = model.config
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    sample = torch.randn(batch, config.in_channels, height, width)
    text = torch.randn(batch, 5, 12)
    labels = None
    if config.num_class_embeds is not None:
        labels = torch.randint(config.num_class_embeds, (batch,))
    elif config.class_embed_type == "timestep":
        labels = torch.rand(batch) * 100
    elif config.class_embed_type == "identity":
        labels = torch.randn(batch, 4 * config.block_out_channels[0])
    return sample, text, labels


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a fraction of the largest expected value."""
    return ((result - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_matches_diffusers(name: str) -> None:
    ours, theirs = pair(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    sample, text, labels = inputs(ours)
    for timestep in (0, torch.tensor(999), torch.tensor([0, 17, 500])):
        expected = theirs(sample, timestep, text, class_labels=labels).sample
        result = ours(sample, timestep, text, class_labels=labels).sample
        assert relative_error(result, expected) <= 1e-5
