"""Names and shapes of the published autoencoders and text encoders of latent diffusion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from septet import AutoencoderKL, CheckpointError, LDMBertModel, VQModel
from septet.checkpoints import conversion
from septet.models import PretrainedModel
from stored import layout

PATH = Path("model.ckpt")

DIFFUSERS: dict[str, type[PretrainedModel]] = {
    "diffusers_ldm_celebahq_256_vqvae": VQModel,
    "diffusers_ldm_text2im_large_256_vqvae": AutoencoderKL,
    "diffusers_sd15_vae": AutoencoderKL,
    "diffusers_ldm_text2im_large_256_bert": LDMBertModel,
}
# CompVis' files, and what of diffusers' they hold.
COMPVIS = {
    "compvis_celebahq256_first_stage": "diffusers_ldm_celebahq_256_vqvae",
    "compvis_text2img_large_first_stage": "diffusers_ldm_text2im_large_256_vqvae",
    "compvis_sd_v1_vae": "diffusers_sd15_vae",
    "compvis_text2img_large_bert": "diffusers_ldm_text2im_large_256_bert",
}
EARLY: dict[str, Any] = {
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [16],
    "in_channels": 3,
    "out_ch": 3,
    "resolution": 32,
    "z_channels": 4,
    "embed_dim": 4,
}


def without_values(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in tensors.items()}


def on_meta(network: type[PretrainedModel], config: dict[str, Any]) -> PretrainedModel:
    with torch.device("meta"):
        return network(**config)


@pytest.mark.parametrize("name", DIFFUSERS)
def test_names_and_shapes(name: str) -> None:
    published = layout(name)
    model = on_meta(DIFFUSERS[name], published["config"])
    assert shapes(model.state_dict()) == published["keys"]
    assert sum(p.numel() for p in model.parameters()) == published["n_parameters"]


@pytest.mark.parametrize("name", DIFFUSERS)
def test_older_names(name: str) -> None:
    published = layout(name)
    older = {published["keys_old_names"].get(k, k): shape for k, shape in published["keys"].items()}
    keys = conversion(DIFFUSERS[name].__name__).keys
    assert shapes(keys(without_values(older), PATH)) == published["keys"]


@pytest.mark.parametrize("name", COMPVIS)
def test_names_and_configuration_of_the_authors(name: str) -> None:
    network = DIFFUSERS[COMPVIS[name]]
    expected = layout(COMPVIS[name])
    other = "first_stage_model.encoder" if name.endswith("bert") else "cond_stage_model.transformer"
    others = [f"{other}.x", "first_stage_model.loss.x", "model.diffusion_model.out.2.bias", "betas"]
    whole = layout(name)["keys"] | {key: [3] for key in others}
    known = conversion(network.__name__)
    assert known.is_authors(without_values(whole))
    today = known.keys(without_values(whole), PATH)
    assert shapes(today) == expected["keys"]
    assert known.infer is not None
    model = on_meta(network, known.infer(today, PATH))
    assert shapes(model.state_dict()) == expected["keys"]
    for key, value in on_meta(network, expected["config"]).config.items():
        # The size only matters for tiles; None stands for the number of channels.
        if key not in ("sample_size", "scaling_factor", "vq_embed_dim"):
            assert model.config[key] == value, key
    if network is not LDMBertModel:
        assert model.config.sample_size == 256
        assert model.config.scaling_factor == (1 if network is VQModel else 0.18215)


@pytest.mark.parametrize("network", [AutoencoderKL, VQModel, LDMBertModel])
def test_other_weights_are_refused(tmp_path: Path, network: type[PretrainedModel]) -> None:
    torch.save({"state_dict": {"time_embed.0.weight": torch.ones(2, 2)}}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="config must be given, the weights do not tell"):
        network.from_single_file(tmp_path / "x.ckpt")


def test_a_codebook_belongs_to_the_other_class() -> None:
    known = conversion("AutoencoderKL")
    tensors = known.keys(without_values(layout("compvis_celebahq256_first_stage")["keys"]), PATH)
    assert known.infer is not None
    with pytest.raises(CheckpointError, match=r"^model\.ckpt: holds a codebook, it is a VQModel"):
        known.infer(tensors, PATH)
    known = conversion("VQModel")
    tensors = known.keys(without_values(layout("compvis_sd_v1_vae")["keys"]), PATH)
    assert known.infer is not None
    with pytest.raises(CheckpointError, match=r"'quantize\.embedding\.weight' must be .*nothing"):
        known.infer(tensors, PATH)


def test_early_configurations() -> None:
    kl = on_meta(AutoencoderKL, conversion("AutoencoderKL").config(EARLY)).config
    assert kl.block_out_channels == (32, 64)
    assert kl.down_block_types == ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
    assert kl.up_block_types == ("AttnUpDecoderBlock2D", "UpDecoderBlock2D")
    assert (kl.latent_channels, kl.sample_size, kl.scaling_factor) == (4, 32, 0.18215)
    early = {**EARLY, "n_embed": 16, "embed_dim": 3, "double_z": False, "dropout": 0.1}
    vq = on_meta(VQModel, conversion("VQModel").config(early)).config
    assert (vq.num_vq_embeddings, vq.vq_embed_dim, vq.latent_channels) == (16, 3, 4)
    for name, config in (("AutoencoderKL", kl), ("VQModel", vq)):
        assert conversion(name).config(config) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": 3}, "embed_dim must equal z_channels, got 3 and 4"),
        ({"double_z": False}, "double_z must be True, got False"),
        ({"resamp_with_conv": False}, "resamp_with_conv must be True"),
        ({"remap": "used.npy"}, "remap must be None, got 'used.npy'"),
        ({"ch_mult": [0]}, r"ch_mult\[0\] must be an integer from 1"),
        ({"ch": "32"}, "ch must be an integer"),
        ({"attn_type": "linear"}, "unknown configuration key 'attn_type'"),
        ({"z_channels": None, "embed_dim": None}, "latent_channels must be an integer"),
    ],
)
def test_bad_early_configurations(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**EARLY, **change}))
    with pytest.raises(CheckpointError, match=rf"config\.json: {message}"):
        AutoencoderKL.from_pretrained(tmp_path)


def test_early_configurations_are_complete(tmp_path: Path) -> None:
    for key in EARLY:
        if key not in ("ch", "ch_mult"):
            config = {name: value for name, value in EARLY.items() if name != key}
            (tmp_path / "config.json").write_text(json.dumps(config))
            with pytest.raises(CheckpointError, match=f"configuration key '{key}' is missing"):
                AutoencoderKL.from_pretrained(tmp_path)
