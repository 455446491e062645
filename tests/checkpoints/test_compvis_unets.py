"""The UNets of CompVis and of early diffusers: names, shapes, configurations and outputs."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from septet import CheckpointError, UNet2DConditionModel, UNet2DModel
from septet.checkpoints.conversions import conversion
from septet.checkpoints.unet_2d_condition import condition_config
from stored import Oracle, layout

PREFIX = "model.diffusion_model."
HERE = Path("model.ckpt")


def meta_tensors(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def on_meta(cls: Any, config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return cls.from_config(config)


def shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in tensors.items()}


def arguments_of(name: str) -> dict[str, Any]:
    """Read how a network of CompVis' code was made."""
    return Oracle(name).constructor


def oracle(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read a network of CompVis' code: its weights, its inputs and outputs, and its arguments."""
    stored = Oracle(name)
    weights = {key: tensor.float() for key, tensor in stored.weights().items()}
    return weights, stored.tensors, stored.constructor


PUBLISHED = [
    ("compvis_text2img_large_unet", "diffusers_ldm_text2im_large_256_unet"),
    ("compvis_sd_v1_unet", "diffusers_sd15_unet"),
    ("compvis_celebahq256_unet", "diffusers_ldm_celebahq_256_unet"),
]


@pytest.mark.parametrize(("authors", "modern"), PUBLISHED)
def test_authors_weights_map_onto_the_published_layout(authors: str, modern: str) -> None:
    cls = UNet2DModel if "celebahq" in authors else UNet2DConditionModel
    known, theirs, todays = conversion(cls.__name__), layout(authors), layout(modern)
    file = {
        **theirs["keys"],
        "first_stage_model.encoder.conv_in.weight": [128, 3, 3, 3],
        "betas": [1000],
    }
    tensors = meta_tensors(file)
    assert known.is_authors(tensors)
    renamed = known.keys(tensors, HERE)
    config = known.infer(renamed, HERE)
    model = on_meta(cls, config)
    finished = known.finish(renamed, model.config, HERE)
    assert shapes(finished) == shapes(model.state_dict()) == todays["keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == todays["n_parameters"]
    assert model.config == on_meta(cls, todays["config"]).config


def test_the_authors_configuration_means_the_modern_one() -> None:
    theirs = layout("compvis_text2img_large_unet")["config"]
    modern = on_meta(UNet2DConditionModel, layout(PUBLISHED[0][1])["config"]).config
    assert on_meta(UNet2DConditionModel, condition_config(theirs)).config == modern


def write_training(path: Path, weights: dict[str, Tensor], averages: dict[str, Tensor]) -> None:
    """Write what a training of CompVis saves."""
    state = {PREFIX + key: tensor for key, tensor in weights.items()}
    for key, tensor in averages.items():
        state["model_ema." + f"diffusion_model.{key}".replace(".", "")] = tensor
    state |= {"model_ema.decay": torch.tensor(0.9999), "betas": torch.zeros(1000)}
    state["model_ema.num_updates"] = torch.tensor(3, dtype=torch.int)
    state["first_stage_model.quant_conv.weight"] = torch.zeros(4, 4, 1, 1)
    torch.save({"epoch": 3, "global_step": 7, "state_dict": state, "optimizer_states": []}, path)


@torch.no_grad()
def test_spatial_transformers_compute_what_theirs_do(tmp_path: Path) -> None:
    weights, tensors, arguments = oracle("ldm_unet_text")
    write_training(tmp_path / "model.ckpt", weights, {})
    unet = UNet2DConditionModel.from_single_file(
        tmp_path / "model.ckpt", config={"attention_head_dim": arguments["num_heads"]}
    )
    result = unet(tensors["input.x"], tensors["input.t"], tensors["input.context"]).sample
    expected = tensors["output.eps"]
    assert (result - expected).abs().max() <= 9e-5 * expected.abs().max()
    assert unet.config.down_block_types == ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2)


@torch.no_grad()
def test_plain_attention_computes_what_theirs_does(tmp_path: Path) -> None:
    weights, tensors, arguments = oracle("ldm_unet_uncond")
    write_training(tmp_path / "model.ckpt", weights, {})
    unet = UNet2DModel.from_single_file(
        tmp_path / "model.ckpt", config={"attention_head_dim": arguments["num_head_channels"]}
    )
    result = unet(tensors["input.x"], tensors["input.t"]).sample
    expected = tensors["output.eps"]
    assert (result - expected).abs().max() <= 9e-5 * expected.abs().max()


def test_averages_are_taken_unless_declined(tmp_path: Path) -> None:
    weights, _, _ = oracle("ldm_unet_text")
    write_training(tmp_path / "model.ckpt", weights, {k: t + 1 for k, t in weights.items()})
    averaged = UNet2DConditionModel.from_single_file(tmp_path / "model.ckpt")
    plain = UNet2DConditionModel.from_single_file(tmp_path / "model.ckpt", use_ema=False)
    assert torch.equal(plain.conv_in.weight, weights["input_blocks.0.0.weight"])
    for one, other in zip(averaged.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other + 1)


def test_folders_of_2022(tmp_path: Path) -> None:
    weights, _, arguments = oracle("ldm_unet_text")
    write_training(tmp_path / "model.ckpt", weights, {})
    expected = UNet2DConditionModel.from_single_file(
        tmp_path / "model.ckpt",
        config={"attention_head_dim": 4, "sample_size": arguments["image_size"]},
    )
    june, july = tmp_path / "june", tmp_path / "july"
    june.mkdir()
    july.mkdir()
    arguments |= {"_class_name": "UNetLDMModel", "num_head_channels": -1, "dropout": 0.0}
    (june / "config.json").write_text(json.dumps(arguments))
    torch.save(weights, june / "diffusion_model.pt")
    config = {
        "_class_name": "UNetConditionalModel",
        "image_size": 8,
        "num_res_blocks": 1,
        "block_channels": [32, 32, 32],
        "down_blocks": ["UNetResDownBlock2D", *["UNetResCrossAttnDownBlock2D"] * 2],
        "up_blocks": [*["UNetResCrossAttnUpBlock2D"] * 2, "UNetResUpBlock2D"],
        "resnet_num_groups": 32,
        "num_head_channels": 4,
        "conv_resample": True,
        "cross_attention_dim": 24,
    }
    (july / "config.json").write_text(json.dumps(config))
    state = {}
    for key, tensor in expected.state_dict().items():
        name = key.replace("mid_block.", "mid.").replace("down_blocks.", "downsample_blocks.")
        name = name.replace("up_blocks.", "upsample_blocks.")
        state[name] = tensor
        if ".downsamplers." in name:
            state[name.replace(".conv.", ".op.")] = tensor
    torch.save(state, july / "diffusion_model.pt")
    for folder in (june, july):
        loaded = UNet2DConditionModel.from_pretrained(folder)
        assert loaded.config == expected.config
        for one, other in zip(loaded.parameters(), expected.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_spatial_transformer": False}, "use_spatial_transformer must be true"),
        ({"context_dim": None}, "use_spatial_transformer must be true and context_dim given"),
        ({"resblock_updown": True}, "resblock_updown True is not supported"),
        ({"conv_resample": False}, "conv_resample False is not supported"),
        ({"n_embed": 10}, "n_embed 10 is not supported"),
        ({"num_heads": -1}, "num_heads must be an integer"),
        ({"num_head_channels": 64}, "num_head_channels must be an integer from 1 to 32"),
        ({"channel_mult": 3}, "channel_mult must be a list"),
        ({"attention_resolutions": [0]}, "attention_resolutions.0. must be"),
        ({"model_channels": "32"}, "model_channels must be an integer"),
        ({"colour": 1}, "unknown configuration key 'colour'"),
    ],
)
def test_refuses_an_early_configuration(changes: dict[str, Any], message: str) -> None:
    arguments = arguments_of("ldm_unet_text")
    condition_config(arguments)
    with pytest.raises(ValueError, match=message):
        condition_config({**arguments, **changes})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 99) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_any_early_configuration_is_taken_or_refused(data: st.DataObject) -> None:
    arguments = arguments_of("ldm_unet_text")
    keys = st.sampled_from([*arguments, "num_classes", "dropout", "use_scale_shift_norm", "legacy"])
    arguments |= data.draw(st.dictionaries(keys, JSON, max_size=3))
    with contextlib.suppress(ValueError):
        on_meta(UNet2DConditionModel, condition_config(arguments))


def test_heads_of_a_given_width() -> None:
    arguments = arguments_of("ldm_unet_text")
    config = condition_config({**arguments, "channel_mult": [1, 2], "num_head_channels": 16})
    assert config["attention_head_dim"] == (2, 4)


def test_an_early_configuration_must_be_complete() -> None:
    with pytest.raises(ValueError, match="image_size must be given"):
        condition_config({"_class_name": "UNetLDMModel"})


def test_refuses_the_file_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    text, plain = oracle("ldm_unet_text")[0], oracle("ldm_unet_uncond")[0]
    write_training(path, text, {})
    with pytest.raises(CheckpointError, match=r"model\.ckpt: holds .* 'UNet2DConditionModel'"):
        UNet2DModel.from_single_file(path)
    write_training(path, plain, {})
    with pytest.raises(CheckpointError, match=r"model\.ckpt: holds .* 'UNet2DModel'"):
        UNet2DConditionModel.from_single_file(path)
    with pytest.raises(CheckpointError, match=r"attentions\.0\.qkv\..*heads 24 wide, got"):
        UNet2DModel.from_single_file(path, config={"attention_head_dim": 24})
    moved = {
        key.replace("output_blocks.1.2.conv", "output_blocks.1.2.in_layers.0"): tensor
        for key, tensor in plain.items()
    }
    write_training(path, moved, {})
    with pytest.raises(CheckpointError, match=r"output_blocks\.1 resizes with a residual block"):
        UNet2DModel.from_single_file(path)
    write_training(path, {"time_embed.0.weight": torch.ones(1)}, {})
    for cls in (UNet2DModel, UNet2DConditionModel):
        with pytest.raises(CheckpointError, match="does not hold the weights of a UNet"):
            cls.from_single_file(path)
    torch.save({"state_dict": {"model.x": 3}}, path)
    with pytest.raises(CheckpointError, match="expected a mapping from names to tensors"):
        UNet2DConditionModel.from_single_file(path)
