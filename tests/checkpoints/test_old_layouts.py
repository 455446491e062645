"""Folders of 2022 give what today's layout gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import old_layouts
import pytest
import torch
from authors_unet import AuthorsUNet
from old_layouts import EARLY_CONFIG, JULY_CONFIG, MODERN_CONFIG
from torch import Tensor

import septet
from septet import CheckpointError, UNet2DModel
from septet.checkpoints.early_keys import early_keys
from septet.checkpoints.keys import july_keys, modern_keys
from septet.checkpoints.unet_2d import authors_config, unet_config, unet_keys
from septet.models import UNet2DConfig
from stored import layout

PUBLISHED = {
    "diffusers_ddpm_cifar10_32_unet": {
        "ch": 128,
        "ch_mult": [1, 2, 2, 2],
        "num_res_blocks": 2,
        "attn_resolutions": [16],
        "dropout": 0.1,
        "in_channels": 3,
        "out_ch": 3,
        "resamp_with_conv": True,
        "resolution": 32,
    },
    # the defaults of the class of 2022
    "diffusers_ddpm_celebahq_256_unet": {
        "ch": 128,
        "ch_mult": [1, 1, 2, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [16],
        "resolution": 256,
    },
}
WRITERS = {
    "early": old_layouts.write_early,
    "july": old_layouts.write_july,
    "0.1": old_layouts.write_old,
}


def shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in tensors.items()}


def images(pipeline: Any, **call: Any) -> Tensor:
    """Make two images in a few steps."""
    result: Tensor = pipeline(
        batch_size=2,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
        **call,
    ).images
    return result


# -- whole folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("age", WRITERS)
@pytest.mark.parametrize("name", ["DDPMPipeline", "DDIMPipeline", "PNDMPipeline"])
def test_same_images_as_todays_layout(
    modern: Path, weights: dict[str, Tensor], tmp_path: Path, age: str, name: str
) -> None:
    WRITERS[age](tmp_path, weights)
    pipeline_class = getattr(septet, name)
    old = pipeline_class.from_pretrained(tmp_path)
    assert type(old.unet) is UNet2DModel
    assert torch.equal(images(old), images(pipeline_class.from_pretrained(modern)))


@pytest.mark.parametrize("age", WRITERS)
def test_the_folder_chooses_the_class(
    modern: Path, weights: dict[str, Tensor], tmp_path: Path, age: str
) -> None:
    WRITERS[age](tmp_path, weights)
    pipeline = septet.DiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipeline) is septet.DDPMPipeline
    config = pipeline.scheduler.config
    assert (config.num_train_timesteps, config.variance_type) == (100, "fixed_large")
    # written again, it is a folder of today
    pipeline.save_pretrained(tmp_path / "again")
    theirs = pytest.importorskip("diffusers").DDPMPipeline.from_pretrained(tmp_path / "again")
    theirs.set_progress_bar_config(disable=True)
    expected = images(septet.DDPMPipeline.from_pretrained(modern))
    got = theirs(
        batch_size=2,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images
    assert (torch.from_numpy(got).permute(0, 3, 1, 2) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("pipeline", ["DDPM", "DDIM", "PNDM"])
def test_early_class_names(weights: dict[str, Tensor], tmp_path: Path, pipeline: str) -> None:
    old_layouts.write_early(tmp_path, weights, pipeline)
    loaded = septet.DiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded).__name__ == f"{pipeline}Pipeline"


def test_the_authors_network_gives_the_same(unet: UNet2DModel, weights: dict[str, Tensor]) -> None:
    authors = AuthorsUNet(**EARLY_CONFIG).eval()
    authors.load_state_dict(old_layouts.authors_weights(weights))
    sample, timesteps = torch.randn(2, 3, 32, 32), torch.tensor([3, 77])
    with torch.no_grad():
        expected, got = authors(sample, timesteps), unet(sample, timesteps).sample
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


# -- keys and shapes of the published networks --------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_authors_weights_map_onto_the_published_layout(name: str) -> None:
    expected = layout(name)
    with torch.device("meta"):
        authors = AuthorsUNet(**PUBLISHED[name]).state_dict()
    got = unet_keys(authors, Path("model.ckpt"))
    assert shapes(got) == expected["keys"]
    assert sum(tensor.numel() for tensor in got.values()) == expected["n_parameters"]
    inferred = authors_config(got, Path("model.ckpt"))
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in inferred.items()} == (
        expected["config"]
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_early_configurations_are_the_published_ones(name: str) -> None:
    got = UNet2DConfig.from_dict(unet_config({"_class_name": "UNetModel", **PUBLISHED[name]}))
    published = layout(name)["config"]
    dropout = PUBLISHED[name].get("dropout", 0.0)
    assert got == UNet2DConfig.from_dict({**published, "dropout": dropout})


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_has_the_published_layout(name: str) -> None:
    expected = layout(name)
    with torch.device("meta"):
        unet = UNet2DModel(**expected["config"])
    assert shapes(unet.state_dict()) == expected["keys"]
    assert {key: [*tensor.shape] for key, tensor in unet.named_parameters()} == expected["keys"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_of_0_1_map_onto_the_published_layout(name: str) -> None:
    expected = layout(name)
    old = {
        expected["keys_old_names"].get(key, key): torch.empty(shape, device="meta")
        for key, shape in expected["keys"].items()
    }
    assert len(expected["keys_old_names"]) >= 8
    assert shapes(modern_keys(old, Path("x.bin"))) == expected["keys"]
    doubled = {**old, "down_blocks.0.downsamplers.0.op.bias": old["conv_in.bias"]}
    del doubled["down_blocks.0.downsamplers.0.conv.bias"]
    assert shapes(july_keys(doubled, Path("x.bin"))) == expected["keys"]


def test_the_halves_of_an_autoencoder_map_as_well() -> None:
    authors = {
        key.removeprefix("first_stage_model."): torch.empty(shape, device="meta")
        for key, shape in layout("compvis_celebahq256_first_stage")["keys"].items()
    }
    got = shapes(early_keys(authors, Path("model.ckpt")))
    assert got == layout("diffusers_ldm_celebahq_256_vqvae")["keys"]


# -- configurations -----------------------------------------------------------------------------


def test_both_old_configurations_mean_the_modern_one() -> None:
    expected = UNet2DConfig.from_dict(MODERN_CONFIG)
    early = unet_config({"_class_name": "UNetModel", **EARLY_CONFIG})
    assert UNet2DConfig.from_dict(early) == expected
    july = unet_config({"_class_name": "UNetUnconditionalModel", **JULY_CONFIG})
    assert UNet2DConfig.from_dict(july) == expected
    assert unet_config(MODERN_CONFIG) == MODERN_CONFIG
    # their own defaults
    assert unet_config({"_class_name": "UNetUnconditionalModel"}) == {
        "_class_name": "UNetUnconditionalModel",
        "attention_head_dim": 32,
    }
    assert unet_config({"_class_name": "UNetModel"})["block_out_channels"] == (
        *(128, 128, 256, 256, 512, 512),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ch": 0}, "ch must be an integer from 1"),
        ({"ch": 10**30}, "ch must be an integer from 1"),
        ({"ch": None}, "ch must be an integer from 1"),
        ({"ch_mult": [1, "2"]}, r"ch_mult\[1\] must be an integer"),
        ({"ch_mult": []}, "ch_mult must be a list of 1 to"),
        ({"ch_mult": [1] * 99}, "ch_mult must be a list of 1 to"),
        ({"attn_resolutions": 16}, "attn_resolutions must be a list"),
        ({"resolution": -1}, "resolution must be an integer"),
        ({"resamp_with_conv": False}, "resamp_with_conv must be true"),
        ({"resamp_with_conv": "no"}, "resamp_with_conv must be true or false"),
        ({"num_res_blocks": 0}, "layers_per_block must be an integer"),
        ({"dropout": 7}, "dropout must be a number"),
        ({"out_ch": "3"}, "out_channels must be an integer"),
        ({"heads": 3}, "unknown configuration key 'heads'"),
        ({"_class_name": "UNetLDMModel"}, "describes a 'UNetLDMModel', expected 'UNet2DModel'"),
        ({"_class_name": ["UNetModel"]}, r"describes a \['UNetModel'\]"),
        ({"ch": 33}, "norm_num_groups must divide"),
        ({"ch": 64}, r"has shape \[32\], expected \[64\]|has shape \[32, 3"),
    ],
)
def test_refuses_an_early_configuration(
    weights: dict[str, Tensor], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    old_layouts.write_early(tmp_path, weights)
    config = {"_class_name": "UNetModel", **EARLY_CONFIG, **changes}
    old_layouts.write_json(tmp_path / "unet" / "config.json", config)
    with pytest.raises(CheckpointError, match=message) as caught:
        septet.DDPMPipeline.from_pretrained(tmp_path)
    assert str(tmp_path / "unet") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers_per_block": 1}, "must not be given together with"),
        ({"down_blocks": ["UNetResos.system"] * 3}, r"down_block_types\[0\] must be one of"),
        ({"down_blocks": 3}, "down_block_types must be a list"),
        ({"resnet_num_groups": None}, "norm_num_groups must be an integer"),
        ({"sde": True}, "unknown configuration key 'sde'"),
        ({"time_embedding_type": "fourier"}, "'fourier' is not supported"),
        ({"num_head_channels": -1}, "attention_head_dim must be an integer"),
    ],
)
def test_refuses_a_july_configuration(
    weights: dict[str, Tensor], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    old_layouts.write_july(tmp_path, weights)
    config = {"_class_name": "UNetUnconditionalModel", **JULY_CONFIG, **changes}
    old_layouts.write_json(tmp_path / "config.json", config)
    with pytest.raises(CheckpointError, match=message):
        septet.DDPMPipeline.from_pretrained(tmp_path)


# -- weights ------------------------------------------------------------------------------------


def test_twins_must_agree(weights: dict[str, Tensor]) -> None:
    july = old_layouts.july_weights(weights)
    assert july_keys(july, Path("x")).keys() == weights.keys()
    name = "downsample_blocks.0.downsamplers.0.op.weight"
    with pytest.raises(CheckpointError, match=rf"'{name}' must equal .*conv\.weight', of which"):
        july_keys({**july, name: july[name] + 1}, Path("x"))
    alone = {key.replace(".conv.", ".op."): tensor for key, tensor in july.items()}
    assert july_keys(alone, Path("x")).keys() == weights.keys()


def test_a_weight_under_two_names(weights: dict[str, Tensor]) -> None:
    authors = old_layouts.authors_weights(weights)
    for old, new in (("up.2.block.0.conv1.bias", "up_blocks.0.resnets.0.conv1.bias"),
                     ("down.0.block.0.conv1.bias", "down.00.block.0.conv1.bias")):  # fmt: skip
        with pytest.raises(CheckpointError, match="under its older name too"):
            unet_keys({**authors, new: authors[old]}, Path("x"))
