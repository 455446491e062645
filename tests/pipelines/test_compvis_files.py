"""Whole latent diffusions out of one file, as CompVis' trainings write them."""

from __future__ import annotations

from pathlib import Path

import latent_parts as parts
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import septet

DATA = Path(__file__).parents[1] / "data" / "oracles"
PREFIXES = {
    "ldm_unet_text": "model.diffusion_model.",
    "ldm_unet_uncond": "model.diffusion_model.",
    "ldm_kl": "first_stage_model.",
    "ldm_vq": "first_stage_model.",
    "ldm_bert": "cond_stage_model.transformer.",
}
BETAS = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64).square().float()


def weights(*names: str) -> dict[str, torch.Tensor]:
    """The oracles' networks, where they lie in a whole model."""
    state = {"betas": BETAS, "alphas_cumprod": torch.cumprod(1 - BETAS, 0), "logvar": BETAS + 0}
    for name in names:
        for key, tensor in load_file(DATA / f"{name}.safetensors").items():
            if key.startswith("weights."):
                state[PREFIXES[name] + key.removeprefix("weights.")] = tensor.float()
    return state


@pytest.fixture(scope="module")
def text_state():
    return weights("ldm_unet_text", "ldm_kl", "ldm_bert")


def read_bert(path):
    """Read the text encoder with what its shapes do not tell: not the published 8 heads of 64."""
    heads = {"encoder_attention_heads": 4, "head_dim": 6}
    return septet.LDMBertModel.from_single_file(path, config=heads)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    parts.make_tokenizer(folder)
    return folder


def test_text_to_image(text_state, tokenizer, tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"epoch": 1, "state_dict": text_state}, path)
    pipe = septet.LatentDiffusionPipeline.from_single_file(
        path, tokenizer=tokenizer, bert=read_bert(path)
    )
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.bert, septet.LDMBertModel)
    assert isinstance(pipe.vqvae, septet.AutoencoderKL)
    config = pipe.scheduler.config
    assert (config.beta_start, config.beta_end, config.steps_offset) == (0.0015, 0.0195, 1)
    torch.testing.assert_close(pipe.scheduler.betas, BETAS, rtol=1e-6, atol=0)
    # the oracle's BERT holds 11 tokens, fewer than the 77 of the published one
    call = {"prompt": "a red apple", "num_inference_steps": 2, "height": 8, "width": 16}
    images = pipe(**call, guidance_scale=3.0, output_type="np").images
    assert images.shape == (1, 8, 16, 3)

    safe = tmp_path / "model.safetensors"
    save_file(text_state, safe)
    again = septet.LatentDiffusionPipeline.from_single_file(
        safe, tokenizer=pipe.tokenizer, bert=pipe.bert
    )
    for name in ("unet", "vqvae"):
        ours, theirs = (getattr(p, name).state_dict() for p in (again, pipe))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_without_text(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": weights("ldm_unet_uncond", "ldm_vq")}, path)
    pipe = septet.LDMPipeline.from_single_file(path)
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.vqvae, septet.VQModel)
    assert isinstance(pipe.unet, septet.UNet2DModel)
    assert np.isfinite(pipe(num_inference_steps=2, output_type="np").images).all()


def clip_state():
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=1, max_position_embeddings=11, bos_token_id=98, eos_token_id=99,
    )  # fmt: skip
    encoder = parts.seeded(transformers.CLIPTextModel, config)
    prefix = "cond_stage_model.transformer.text_model."
    state = {
        prefix + key.removeprefix("text_model."): tensor
        for key, tensor in encoder.state_dict().items()
    }
    state[prefix + "embeddings.position_ids"] = torch.arange(11)[None]
    return state, encoder


def test_clip_text_encoder(text_state):
    from septet.pipelines.compvis import compvis_text_encoder

    state, encoder = clip_state()
    loaded = compvis_text_encoder(state, Path("sd.ckpt"), torch.float32)
    ids = torch.tensor([[98, 5, 6, 99, 99]])
    torch.testing.assert_close(loaded(ids)[0], encoder(ids)[0], rtol=0, atol=0)
    del state["cond_stage_model.transformer.text_model.final_layer_norm.bias"]
    with pytest.raises(septet.CheckpointError, match=r"sd.ckpt: lacks .*final_layer_norm.bias"):
        compvis_text_encoder(state, Path("sd.ckpt"), torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"betas": torch.linspace(1e-4, 0.02, 1000)}, "betas must be squares"),
        ({"first_stage_model.decoder.conv_in.weight": torch.zeros(3, 3)}, "decoder.conv_in.weight"),
    ],
)
def test_refuses_other_files(change, message, text_state, tokenizer, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({**text_state, **change}, path)
    with pytest.raises(septet.CheckpointError, match=message):
        septet.LatentDiffusionPipeline.from_single_file(
            path, tokenizer=tokenizer, bert=read_bert(path)
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, septet.CheckpointError, "tokenizer must be given, the file has none: a BertTokenizer"),
        ({"tokenizer": "/nowhere"}, septet.CheckpointError, "cannot read a BertTokenizer"),
        ({"vae": None}, ValueError, "unknown argument 'vae'"),
        ({"dtype": torch.int8}, ValueError, "floating"),
    ],
)
def test_bad_arguments(options, error, message, text_state, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(text_state, path)
    with pytest.raises(error, match=message):
        septet.LatentDiffusionPipeline.from_single_file(path, bert=read_bert(path), **options)


def test_stable_diffusion_2_needs_a_folder(text_state, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({**text_state, "cond_stage_model.model.ln_final.bias": torch.zeros(4)}, path)
    with pytest.raises(septet.CheckpointError, match="OpenCLIP of Stable Diffusion 2"):
        septet.LatentDiffusionPipeline.from_single_file(path)
