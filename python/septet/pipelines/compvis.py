"""The parts of a latent diffusion out of one file of CompVis: networks, sampler, tokenizer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.checkpoints import match_keys
from septet.errors import CheckpointError
from septet.models import AutoencoderKL, LDMBertModel, UNet2DConditionModel, UNet2DModel, VQModel
from septet.pipelines.loading import read_transformers
from septet.pipelines.registry import find_class
from septet.schedulers import DDIMScheduler

#: Where the parts lie in the file.
_TEXT = "cond_stage_model.transformer."
_CLIP = f"{_TEXT}text_model."
_CODEBOOK = "first_stage_model.quantize.embedding.weight"
#: Stable Diffusion 2 has an OpenCLIP encoder, whose weights have other names.
_OPEN_CLIP = "cond_stage_model.model."
#: CLIP's heads have this width in every published size.
_CLIP_HEAD = 64


def compvis_vae(
    found: Mapping[str, Tensor], path: Path, dtype: torch.dtype
) -> AutoencoderKL | VQModel:
    """Make the autoencoder: with a codebook if the file has one.

    Raises:
        CheckpointError: If the weights do not suit.
    """
    vae_class: Any = VQModel if _CODEBOOK in found else AutoencoderKL
    vae: AutoencoderKL | VQModel = vae_class.from_weights(found, path, dtype=dtype)
    return vae


def compvis_unet(
    found: Mapping[str, Tensor], path: Path, dtype: torch.dtype
) -> UNet2DConditionModel | UNet2DModel:
    """Make the network: with cross-attention if the file has a text encoder.

    Raises:
        CheckpointError: If the weights do not suit.
    """
    has_text = any(key.startswith(_TEXT) for key in found)
    unet_class: Any = UNet2DConditionModel if has_text else UNet2DModel
    unet: UNet2DConditionModel | UNet2DModel = unet_class.from_weights(found, path, dtype=dtype)
    return unet


def compvis_text_encoder(found: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> Any:
    """Make the text encoder: CLIP (Stable Diffusion 1.x) or BERT (LDM text2im-large).

    Raises:
        CheckpointError: If there is none, or one of another kind.
    """
    if any(key.startswith(_OPEN_CLIP) for key in found):
        raise CheckpointError(
            f"{path}: the text encoder is the OpenCLIP of Stable Diffusion 2, which is read from "
            "folders of diffusers only"
        )
    if any(key.startswith(_CLIP) for key in found):
        return _clip(found, path, dtype)
    return LDMBertModel.from_weights(found, path, dtype=dtype)


def _clip(found: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    tensors = {
        key.removeprefix(_CLIP): tensor.to(dtype)
        for key, tensor in found.items()
        if key.startswith(_CLIP) and not key.endswith("position_ids")
    }
    try:
        vocabulary, width = tensors["embeddings.token_embedding.weight"].shape
        positions = tensors["embeddings.position_embedding.weight"].shape[0]
        inner = tensors["encoder.layers.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: the weights under {_CLIP!r} are not CLIP's") from error
    layers = len({key.split(".")[2] for key in tensors if key.startswith("encoder.layers.")})
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // _CLIP_HEAD),
        max_position_embeddings=positions,
        hidden_act="quick_gelu",
        # the last two tokens of the vocabulary
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    encoder: Any = CLIPTextModel(config)
    encoder.to(dtype)
    # transformers put everything below "text_model." until release 5
    nested = any(key.startswith("text_model.") for key in encoder.state_dict())
    named = {f"text_model.{key}" if nested else key: tensor for key, tensor in tensors.items()}
    match_keys(encoder.state_dict(), named, path)
    encoder.load_state_dict(named)
    return encoder.eval().requires_grad_(False)


def find_tokenizer(tokenizer: Any, text_encoder: Any, path: Path) -> Any:
    """Return the tokenizer of a text encoder, which no file of CompVis holds.

    Args:
        tokenizer: The tokenizer, or the folder with its vocabulary.
        text_encoder: Tells of which kind it must be.
        path: The file, for error messages.

    Raises:
        CheckpointError: If it is not given or cannot be read.
    """
    kind = "BertTokenizer" if isinstance(text_encoder, LDMBertModel) else "CLIPTokenizer"
    if tokenizer is None:
        source = "bert-base-uncased" if kind == "BertTokenizer" else "openai/clip-vit-large-patch14"
        raise CheckpointError(
            f"{path}: tokenizer must be given, the file has none: a {kind} or a folder with its "
            f"vocabulary, such as that of {source}"
        )
    if not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    return read_transformers(find_class(kind), tokenizer)


def compvis_scheduler(found: Mapping[str, Tensor], path: Path) -> DDIMScheduler:
    """Make the sampler that the authors use: DDIM on timesteps that begin at 1.

    Args:
        found: The weights; the noise schedule lies beside them as ``betas``. Without it, that of
            text2im-large and Stable Diffusion is taken.
        path: The file, for error messages.

    Raises:
        CheckpointError: If the schedule is not linear in the standard deviation, as all of CompVis
            are.
    """
    schedule: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012}
    betas = found.get("betas")
    if betas is not None:
        betas = betas.double().flatten()
        roots = torch.linspace(betas[0].sqrt(), betas[-1].sqrt(), len(betas), dtype=torch.float64)
        if not torch.allclose(betas, roots**2, rtol=1e-4, atol=0):
            raise CheckpointError(f"{path}: betas must be squares of equally spaced numbers")
        schedule = {
            # undo the rounding to float32
            "beta_start": float(f"{betas[0].item():.6g}"),
            "beta_end": float(f"{betas[-1].item():.6g}"),
            "num_train_timesteps": len(betas),
        }
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        **schedule,
    )
