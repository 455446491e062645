"""The unconditional UNet against diffusers, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import stored
from septet.models import UNet2DModel
from septet.testing.tolerances import relative_error

diffusers = pytest.importorskip("diffusers")


SMALL: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
THREE_LEVELS: dict[str, Any] = {
    **SMALL,
    "block_out_channels": (8, 16, 24),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "published_style": {
        **THREE_LEVELS,
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    "scale_shift": {**SMALL, "resnet_time_scale_shift": "scale_shift"},
    "scale_shift_with_attention_norm": {
        **SMALL,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 8,
    },
    "resnet_resampling": {**THREE_LEVELS, "downsample_type": "resnet", "upsample_type": "resnet"},
    "resnet_resampling_with_attention": {
        **SMALL,
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
    },
    "mid_scale_and_centering": {
        **SMALL,
        "mid_block_scale_factor": 1.7,
        "center_input_sample": True,
        "act_fn": "mish",
    },
    "no_mid_attention": {**SMALL, "add_attention": False, "act_fn": "gelu", "dropout": 0.3},
    "no_mid_block": {**SMALL, "mid_block_type": None, "act_fn": "relu"},
    "uneven_heads": {**SMALL, "block_out_channels": (12, 20), "attention_head_dim": 8},
    "odd_time_width": {
        **SMALL,
        "block_out_channels": (7, 14),
        "norm_num_groups": 7,
        "time_embedding_dim": 10,
        "act_fn": "swish",
    },
    "one_level": {
        **SMALL,
        "block_out_channels": (8,),
        "down_block_types": ("AttnDownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "in_channels": 2,
        "out_channels": 5,
        "sample_size": (8, 12),
    },
    "class_table": {**SMALL, "num_class_embeds": 10},
    "class_timestep": {**SMALL, "class_embed_type": "timestep"},
    "class_identity": {**SMALL, "class_embed_type": "identity"},
}


def pair(name: str) -> tuple[UNet2DModel, Any]:
    """Make our network and diffusers' with the same random weights."""
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(**CONFIGS[name]).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours = UNet2DModel(**CONFIGS[name]).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(model: UNet2DModel, batch: int = 3) -> tuple[Tensor, Tensor | None]:
    """Draw a sample and, for a class-conditional network, labels."""
    config = model.config
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    sample = torch.randn(batch, config.in_channels, height, width)
    labels = None
    if config.num_class_embeds is not None:
        labels = torch.randint(config.num_class_embeds, (batch,))
    elif config.class_embed_type == "timestep":
        labels = torch.rand(batch) * 100
    elif config.class_embed_type == "identity":
        labels = torch.randn(batch, 4 * config.block_out_channels[0])
    return sample, labels


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_matches_diffusers(name: str) -> None:
    ours, theirs = pair(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    sample, labels = inputs(ours)
    for timestep in (0, torch.tensor(999), torch.tensor([0, 17, 500])):
        expected = theirs(sample, timestep, class_labels=labels).sample
        result = ours(sample, timestep, class_labels=labels).sample
        assert relative_error(result, expected) <= 1e-5


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_prepared_equals_forward(name: str) -> None:
    # In double precision, where the order of the sums in a matrix product hardly matters.
    ours = pair(name)[0].double()
    sample, labels = inputs(ours)
    sample = sample.double()
    timesteps = torch.tensor([999, 500, 3, 0])
    prepared = ours.prepare(timesteps, labels)
    assert len(prepared) == 4
    for row, timestep in enumerate(timesteps):
        expected = ours(sample, timestep, labels).sample
        assert relative_error(prepared(sample, row), expected) <= 1e-14
        assert torch.equal(prepared(sample, torch.tensor(row)), prepared(sample, row))


@pytest.mark.parametrize("name", ["small", "class_table"])
@torch.no_grad()
def test_samples_of_a_batch_do_not_mix(name: str) -> None:
    ours, _ = pair(name)
    sample, labels = inputs(ours)
    timesteps = torch.tensor([10, 20, 30])
    together = ours(sample, timesteps, labels).sample
    for index in range(3):
        one = slice(index, index + 1)
        alone = ours(sample[one], timesteps[index], None if labels is None else labels[one]).sample
        assert relative_error(together[one], alone) <= 1e-5


@pytest.mark.parametrize("name", ["cifar10_32", "celebahq_256"])
def test_published_layouts(name: str) -> None:
    layout = stored.layout(f"ddpm_{name}_unet")
    with torch.device("meta"):
        model = UNet2DModel.from_config(layout["config"])
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == layout["keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == layout["n_parameters"]


@torch.no_grad()
def test_return_value() -> None:
    ours, _ = pair("small")
    sample, _ = inputs(ours)
    (result,) = ours(sample, 5, return_dict=False)
    assert torch.equal(result, ours(sample, 5).sample)
    assert torch.equal(result, ours(sample, 5.0).sample)
    assert not torch.equal(result, ours(sample, 5.5).sample)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_dtypes(dtype: torch.dtype) -> None:
    ours, _ = pair("small")
    sample, _ = inputs(ours)
    expected = ours(sample, 100).sample
    result = ours.to(dtype)(sample.to(dtype), 100).sample
    assert result.dtype == ours.dtype == dtype
    assert relative_error(result.float(), expected) <= 4 * torch.finfo(dtype).eps + 1e-5


@torch.no_grad()
def test_channels_last() -> None:
    ours, _ = pair("published_style")
    sample, _ = inputs(ours)
    expected = ours(sample, 100).sample
    ours = ours.to(memory_format=torch.channels_last)
    result = ours(sample.to(memory_format=torch.channels_last), 100).sample
    assert relative_error(result, expected) <= 1e-5


@torch.no_grad()
def test_traces_without_a_graph_break() -> None:
    ours, _ = pair("published_style")
    sample, _ = inputs(ours)
    prepared = ours.prepare(torch.tensor([100, 50]))
    compiled = torch.compile(ours.denoise, backend="eager", fullgraph=True)
    result = compiled(sample, prepared.times[1])
    # a traced graph keeps torch's own convolution
    assert relative_error(result, prepared(sample, 1)) < 1e-5


def test_gradients_flow() -> None:
    ours = UNet2DModel(**SMALL)
    sample = torch.randn(2, 3, 16, 16, requires_grad=True)
    ours(sample, torch.tensor([1, 2])).sample.square().mean().backward()
    assert sample.grad is not None
    assert all(parameter.grad is not None for parameter in ours.parameters())


@torch.no_grad()
def test_refuses_wrong_inputs() -> None:
    plain = UNet2DModel(**SMALL)
    labelled = UNet2DModel(**CONFIGS["class_table"])
    identity = UNet2DModel(**CONFIGS["class_identity"])
    sample = torch.zeros(2, 3, 16, 16)
    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"sample must have shape \[B, 3, H, W\], got \[2, 4"):
        plain(torch.zeros(2, 4, 16, 16), 0)
    with pytest.raises(ValueError, match=r"sample must have shape \[B, 3, H, W\], got \[3, 16"):
        plain(torch.zeros(3, 16, 16), 0)
    with pytest.raises(ValueError, match="sample must have height and width divisible by 2"):
        plain(torch.zeros(2, 3, 16, 15), 0)
    with pytest.raises(ValueError, match="timestep must be a number or one number per sample"):
        plain(sample, torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="timesteps must have one axis"):
        plain.prepare(torch.tensor(3))
    with pytest.raises(ValueError, match="class_labels must be None"):
        plain(sample, 0, labels)
    with pytest.raises(ValueError, match="class_labels must be given"):
        labelled(sample, 0)
    with pytest.raises(ValueError, match=r"class_labels must have shape \[B, 32\]"):
        identity(sample, 0, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="sample must have the batch size of class_labels"):
        labelled.prepare(torch.tensor([1]), labels)(torch.zeros(3, 3, 16, 16), 0)
