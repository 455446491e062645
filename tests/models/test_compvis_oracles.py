"""The networks of latent diffusion against what CompVis' own code computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from septet import AutoencoderKL, CheckpointError, LDMBertModel, VQModel
from septet.testing.tolerances import relative_error
from stored import Oracle


def oracle(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Return the weights under CompVis' names, the other tensors, and the description."""
    stored = Oracle(name)
    weights = {key: tensor.float() for key, tensor in stored.weights().items()}
    return weights, stored.tensors, stored.info


def whole_model(weights: dict[str, Tensor], prefix: str, path: Path) -> Path:
    """Save a part of a latent diffusion model as CompVis' training does."""
    state = {f"{prefix}{key}": tensor for key, tensor in weights.items()}
    state["model.diffusion_model.time_embed.0.weight"] = torch.ones(4, 4)
    state["betas"] = torch.ones(4)
    if prefix == "first_stage_model.":
        state["first_stage_model.loss.logvar"] = torch.ones(())
    torch.save({"epoch": 3, "global_step": 7, "state_dict": state}, path)
    return path


@torch.no_grad()
def test_kl(tmp_path: Path) -> None:
    weights, tensors, _ = oracle("ldm_kl")
    path = whole_model(weights, "first_stage_model.", tmp_path / "model.ckpt")
    model = AutoencoderKL.from_single_file(path)
    posterior = model.encode(tensors["input.image"]).latent_dist
    for part in ("mean", "logvar", "std"):
        assert relative_error(getattr(posterior, part), tensors[f"output.{part}"]) <= 1e-5
    assert relative_error(posterior.parameters, tensors["output.moments"]) <= 1e-5
    sample = posterior.mean + posterior.std * tensors["noise.000"]
    assert relative_error(sample, tensors["output.sample"]) <= 1e-5
    assert (
        relative_error(model.decode(tensors["input.z"]).sample, tensors["output.decoded"]) <= 1e-5
    )


@torch.no_grad()
def test_vq(tmp_path: Path) -> None:
    weights, tensors, _ = oracle("ldm_vq")
    path = whole_model(weights, "first_stage_model.", tmp_path / "model.ckpt")
    model = VQModel.from_single_file(path)
    latents = model.encode(tensors["input.image"]).latents
    assert relative_error(latents, tensors["output.prequant"]) <= 1e-5
    quantized = model.quantize(latents)
    assert torch.equal(quantized.indices.flatten(), tensors["output.indices"])
    assert relative_error(quantized.latents, tensors["output.quantized"]) <= 1e-6
    z = tensors["input.z"]
    quantized = model.quantize(z)
    assert torch.equal(quantized.indices.flatten(), tensors["output.z_indices"])
    assert relative_error(quantized.latents, tensors["output.z_quantized"]) <= 1e-6
    assert relative_error(model.decode(z).sample, tensors["output.decoded"]) <= 1e-5
    plain = model.decode(z, force_not_quantize=True).sample
    assert relative_error(plain, tensors["output.decoded_no_quantize"]) <= 1e-5


@torch.no_grad()
def test_bert(tmp_path: Path) -> None:
    weights, tensors, description = oracle("ldm_bert")
    path = whole_model(weights, "cond_stage_model.transformer.", tmp_path / "model.ckpt")
    # Shapes do not tell heads from their widths, and these are not the authors' 8 heads of 64.
    with pytest.raises(CheckpointError, match=r"k_proj.weight' has shape .*expected \[512, 24\]"):
        LDMBertModel.from_single_file(path)
    sizes = description["config"]
    heads = {"encoder_attention_heads": sizes["heads"], "head_dim": sizes["dim_head"]}
    model = LDMBertModel.from_single_file(path, config=heads)
    assert model.config.max_position_embeddings == sizes["seq"]
    output = model(tensors["input.tokens"], output_hidden_states=True)
    assert relative_error(output[0], tensors["output.embeddings"]) <= 1e-5
    for layer in (1, 2):
        state = tensors[f"output.hidden.layer{2 * layer - 1}"]
        assert relative_error(output.hidden_states[layer], state) <= 1e-5
    known = {
        key.removeprefix("hfweights."): tensor
        for key, tensor in tensors.items()
        if key.startswith("hfweights.")
    }
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, known.pop(key)), key
    assert not known


@torch.no_grad()
def test_the_autoencoder_alone(tmp_path: Path) -> None:
    """Improved decoders were published as files of their own."""
    weights, tensors, _ = oracle("ldm_kl")
    save_file(weights, tmp_path / "vae.safetensors")
    torch.save({"state_dict": {**weights, "loss.logvar": torch.ones(())}}, tmp_path / "vae.ckpt")
    for name in ("vae.safetensors", "vae.ckpt"):
        model = AutoencoderKL.from_single_file(tmp_path / name)
        decoded = model.decode(tensors["input.z"]).sample
        assert relative_error(decoded, tensors["output.decoded"]) <= 1e-5


@pytest.mark.parametrize(("name", "network"), [("ldm_kl", AutoencoderKL), ("ldm_vq", VQModel)])
@torch.no_grad()
def test_folders_of_june_2022(
    tmp_path: Path, name: str, network: type[AutoencoderKL] | type[VQModel]
) -> None:
    weights, tensors, description = oracle(name)
    constructor = description["constructor"]
    sizes = {key: constructor[key] for key in ("embed_dim", "n_embed") if key in constructor}
    folder = tmp_path / "vqvae"
    folder.mkdir()
    torch.save(weights, folder / "diffusion_model.pt")
    config = {"_class_name": network.__name__, **constructor["ddconfig"], **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    model = network.from_pretrained(tmp_path, subfolder="vqvae")
    assert model.config.sample_size == 16
    decoded = model.decode(tensors["input.z"]).sample
    assert relative_error(decoded, tensors["output.decoded"]) <= 1e-5
    model.save_pretrained(tmp_path / "today")
    again = network.from_pretrained(tmp_path / "today")
    assert again.config == model.config
    assert torch.equal(again.decode(tensors["input.z"]).sample, decoded)
