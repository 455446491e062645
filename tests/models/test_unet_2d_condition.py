"""The text-conditional UNet against diffusers, with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from septet import DDIMScheduler, SamplingLoop
from septet.models import UNet2DConditionModel
from septet.testing.tolerances import relative_error

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


@pytest.mark.parametrize("size", [(7, 9), (1, 1), (5, 8), (12, 2)])
@pytest.mark.parametrize("name", ["latent_diffusion_style", "stable_diffusion_2_style"])
@torch.no_grad()
def test_odd_sizes_match_diffusers(name: str, size: tuple[int, int]) -> None:
    ours, theirs = pair(name)
    sample, text = torch.randn(2, 4, *size), torch.randn(2, 5, 12)
    expected = theirs(sample, 10, text).sample
    result = ours(sample, 10, text).sample
    assert result.shape == sample.shape
    assert relative_error(result, expected) <= 1e-5


@pytest.mark.parametrize("name", ["small", "only_cross_attention"])
@torch.no_grad()
def test_masked_text_matches_diffusers(name: str) -> None:
    ours, theirs = pair(name)
    sample, text, _ = inputs(ours)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1]])
    for dtype in (torch.bool, torch.long, torch.float32):
        expected = theirs(sample, 7, text, encoder_attention_mask=mask.to(dtype)).sample
        result = ours(sample, 7, text, encoder_attention_mask=mask.to(dtype)).sample
        assert relative_error(result, expected) <= 1e-5


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_prepared_equals_forward(name: str) -> None:
    # In double precision, where the order of the sums in a matrix product hardly matters.
    ours = pair(name)[0].double()
    sample, text, labels = inputs(ours)
    sample, text, negative = sample.double(), text.double(), torch.randn(3, 5, 12).double()
    timesteps = torch.tensor([999, 3])
    plain = ours.prepare(timesteps, text, class_labels=labels)
    guided = ours.prepare(timesteps, text, negative, labels)
    assert len(plain) == len(guided) == 2
    for row, timestep in enumerate(timesteps):
        expected = ours(sample, timestep, text, labels).sample
        assert relative_error(plain(sample, row), expected) <= 1e-13
        both = None if labels is None else torch.cat([labels, labels])
        double = torch.cat([sample, sample])
        expected = ours(double, timestep, torch.cat([text, negative]), both).sample
        result = guided(sample, row)
        assert isinstance(result, tuple)
        assert all(half.is_contiguous() for half in result)
        assert relative_error(torch.cat(result), expected) <= 1e-13
        assert torch.equal(guided(sample, torch.tensor(row))[0], result[0])


@torch.no_grad()
def test_prepared_equals_forward_in_single_precision() -> None:
    ours, _ = pair("latent_diffusion_style")
    sample, text, _ = inputs(ours)
    negative = torch.randn(3, 5, 12)
    result = ours.prepare(torch.tensor([500]), text, negative)(sample, 0)
    expected = ours(torch.cat([sample, sample]), 500, torch.cat([text, negative])).sample
    assert relative_error(torch.cat(result), expected) <= 1e-6


@pytest.mark.parametrize(("texts", "negatives"), [(1, 1), (3, 1), (1, 3)])
@torch.no_grad()
def test_one_text_serves_many_samples(texts: int, negatives: int) -> None:
    ours = pair("latent_diffusion_style")[0].double()
    sample = torch.randn(3, 4, 8, 8).double()
    text, negative = torch.randn(texts, 5, 12).double(), torch.randn(negatives, 5, 12).double()
    all_texts = torch.cat([text.expand(3, 5, 12), negative.expand(3, 5, 12)])
    expected = ours(torch.cat([sample, sample]), 20, all_texts).sample
    result = ours.prepare(torch.tensor([20]), text, negative)(sample, 0)
    assert relative_error(torch.cat(result), expected) <= 1e-13
    if texts == 1:
        alone = ours(sample, 20, text).sample
        assert relative_error(alone, expected[:3]) <= 1e-13


@torch.no_grad()
def test_shared_states_stay_channels_last() -> None:
    ours, _ = pair("late_text")
    formats = []
    for resnet in ours.up_blocks[-1].resnets:
        resnet.register_forward_hook(
            lambda _module, inputs, _output: formats.append(
                inputs[0].is_contiguous(memory_format=torch.channels_last)
            )
        )
    text = torch.randn(1, 5, 12)
    ours.prepare(torch.tensor([5]), text, text)(torch.randn(1, 4, 8, 8), 0)
    assert formats == [True, True]


@torch.no_grad()
def test_halves_share_what_comes_before_the_text() -> None:
    ours, _ = pair("late_text")
    sample, text, _ = inputs(ours)
    rows: dict[str, int] = {}
    for name in (
        "conv_in",
        "down_blocks.0.downsamplers.0",
        "down_blocks.1.resnets.0",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0",
        "mid_block.resnets.0",
    ):
        ours.get_submodule(name).register_forward_hook(
            lambda _module, inputs, _output, name=name: rows.update({name: inputs[0].shape[0]})
        )
    ours.prepare(torch.tensor([5]), text, text)(sample, 0)
    assert list(rows.values()) == [3, 3, 3, 3, 3, 6, 6]


@torch.no_grad()
def test_the_loop_guides_with_the_pair() -> None:
    ours, _ = pair("small")
    sample, text, _ = inputs(ours)
    negative = torch.randn(3, 5, 12)
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(3)
    table = scheduler.table().with_guidance(4.0)
    timesteps = torch.as_tensor(table.timesteps)
    result = SamplingLoop(table)(ours.prepare(timesteps, text, negative), sample.clone())
    expected = sample
    for timestep in scheduler.timesteps:
        cond, uncond = ours(
            torch.cat([expected] * 2), timestep, torch.cat([text, negative])
        ).sample.chunk(2)
        guided = uncond + 4.0 * (cond - uncond)
        expected = scheduler.step(guided, timestep, expected).prev_sample
    assert relative_error(result, expected) <= 1e-5


@torch.no_grad()
def test_return_value_and_arguments_of_diffusers() -> None:
    ours, _ = pair("small")
    sample, text, _ = inputs(ours)
    (result,) = ours(sample, 5, text, return_dict=False)
    assert torch.equal(result, ours(sample, 5.0, encoder_hidden_states=text).sample)
    assert torch.equal(
        result, ours(sample, 5, text, timestep_cond=None, cross_attention_kwargs=None).sample
    )
    with pytest.raises(ValueError, match="added_cond_kwargs is not supported, it must be None"):
        ours(sample, 5, text, added_cond_kwargs={"time_ids": text})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_dtypes(dtype: torch.dtype) -> None:
    ours, _ = pair("stable_diffusion_2_style")
    sample, text, _ = inputs(ours)
    expected = ours(sample, 100, text).sample
    result = ours.to(dtype)(sample.to(dtype), 100, text.to(dtype)).sample
    assert result.dtype == ours.dtype == dtype
    assert relative_error(result.double(), expected.double()) <= 8 * torch.finfo(dtype).eps + 1e-5


@torch.no_grad()
def test_layout_of_the_sample_is_kept() -> None:
    ours, _ = pair("latent_diffusion_style")
    sample, text, _ = inputs(ours)
    expected = ours(sample, 100, text).sample
    result = ours(sample.to(memory_format=torch.channels_last), 100, text).sample
    assert expected.is_contiguous()
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, expected)


@torch.no_grad()
def test_traces_without_a_graph_break() -> None:
    ours, _ = pair("stable_diffusion_2_style")
    sample, text, _ = inputs(ours)
    prepared = ours.prepare(torch.tensor([100, 50]), text, text + 1)
    compiled = torch.compile(ours.denoise, backend="eager", fullgraph=True)
    result = compiled(sample, prepared.times[1], prepared.keys_values, rows=6)
    # a traced graph keeps torch's own convolution
    assert relative_error(result, torch.cat(prepared(sample, 1))) < 1e-5


@pytest.mark.parametrize("name", ["latent_diffusion_style", "only_cross_attention"])
def test_trains_as_diffusers_does(name: str) -> None:
    ours, theirs = pair(name)
    sample, text, _ = inputs(ours)
    gradients = []
    for network in (ours, theirs):
        inner = [tensor.clone().requires_grad_() for tensor in (sample, text)]
        network(inner[0], torch.tensor([1, 2, 3]), inner[1]).sample.square().mean().backward()
        named = {key: p.grad for key, p in network.named_parameters()}
        gradients.append({**named, "sample": inner[0].grad, "text": inner[1].grad})
    largest = max(gradient.abs().max() for gradient in gradients[1].values())
    for key, gradient in gradients[0].items():
        assert (gradient - gradients[1][key]).abs().max() <= 1e-5 * largest


@torch.no_grad()
def test_changed_weights_are_used_after_inference() -> None:
    ours, theirs = pair("small")
    sample, text, _ = inputs(ours)
    ours(sample, 1, text)  # joins the weights of self-attention
    for network in (ours, theirs):
        for key, parameter in network.named_parameters():
            if "attn1.to_" in key:
                parameter.mul_(1.5)
    assert relative_error(ours(sample, 1, text).sample, theirs(sample, 1, text).sample) <= 1e-5
    changed = {key: tensor * 0.7 for key, tensor in theirs.state_dict().items()}
    theirs.load_state_dict(changed)
    for assign in (False, True):
        ours.load_state_dict(changed, assign=assign)
        assert relative_error(ours(sample, 1, text).sample, theirs(sample, 1, text).sample) <= 1e-5


@torch.no_grad()
def test_saves_and_loads(tmp_path: Path) -> None:
    ours, _ = pair("transformer_layers_per_layer")
    sample, text, _ = inputs(ours)
    expected = ours(sample, 1, text).sample
    ours.save_pretrained(tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path)
    assert loaded.config == ours.config
    assert torch.equal(loaded(sample, 1, text).sample, expected)
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path)
    assert relative_error(theirs(sample, 1, text).sample, expected) <= 1e-5


@torch.no_grad()
def test_refuses_wrong_inputs() -> None:
    ours, labelled = pair("small")[0], pair("class_table")[0]
    padded = pair("published_time_of_ddpm")[0]
    sample, text, _ = inputs(ours)
    steps = torch.tensor([1, 2])
    with pytest.raises(ValueError, match=r"encoder_hidden_states must have width 12 \(cross_att"):
        ours(sample, 0, torch.zeros(3, 5, 768))
    with pytest.raises(ValueError, match=r"negative_hidden_states must have width 12 .* got 768"):
        ours.prepare(steps, text, torch.zeros(3, 5, 768))
    with pytest.raises(ValueError, match=r"encoder_hidden_states must have shape \[B, S, 12\]"):
        ours(sample, 0, torch.zeros(3, 12))
    with pytest.raises(ValueError, match=r"negative_hidden_states must have the shape of enc"):
        ours.prepare(steps, text, torch.zeros(3, 4, 12))
    with pytest.raises(ValueError, match=r"negative_hidden_states must have the shape of enc"):
        ours.prepare(steps, text, torch.zeros(2, 5, 12))
    with pytest.raises(ValueError, match="got 3 samples for 2 texts"):
        ours(sample, 0, text[:2])
    with pytest.raises(ValueError, match="got 2 samples for 3 texts"):
        ours.prepare(steps, text, text)(sample[:2], 0)
    with pytest.raises(ValueError, match=r"sample must have shape \[B, 4, H, W\], got \[3, 3"):
        ours(sample[:, :3], 0, text)
    with pytest.raises(ValueError, match="sample must have height and width of at least 1"):
        ours(sample[..., :0], 0, text)
    with pytest.raises(ValueError, match="sample must have height and width of at least 2"):
        padded(sample[..., :1], 0, text)
    with pytest.raises(ValueError, match="sample must not be empty"):
        ours(sample[:0], torch.tensor([1]), text)
    with pytest.raises(ValueError, match="timestep must be a number or one number per sample"):
        ours(sample, steps, text)
    with pytest.raises(ValueError, match="timesteps must have one axis"):
        ours.prepare(torch.tensor(3), text)
    with pytest.raises(ValueError, match="class_labels must be None"):
        ours(sample, 0, text, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="class_labels must be given"):
        labelled(sample, 0, text)
    with pytest.raises(ValueError, match=r"encoder_attention_mask must have shape \[3, 5\]"):
        ours(sample, 0, text, encoder_attention_mask=torch.ones(3, 4))
