"""Writes checkpoints as the releases of 2022 and the authors did, from today's weights.

The names are derived here the other way round than in the package, without its tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: A network of the authors, small; attends at 16 pixels.
EARLY_CONFIG: dict[str, Any] = {
    "ch": 32,
    "ch_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [16],
    "dropout": 0.1,
    "in_channels": 3,
    "out_ch": 3,
    "resamp_with_conv": True,
    "resolution": 32,
}
#: The same for diffusers today.
MODERN_CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "dropout": 0.1,
    "layers_per_block": 1,
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "act_fn": "silu",
    "attention_head_dim": None,
    "center_input_sample": False,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "time_embedding_type": "positional",
}
#: And for the library in July 2022.
JULY_CONFIG: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "dropout": 0.1,
    "num_res_blocks": 1,
    "block_channels": [32, 64, 64],
    "down_blocks": ["UNetResDownBlock2D", "UNetResAttnDownBlock2D", "UNetResDownBlock2D"],
    "up_blocks": ["UNetResUpBlock2D", "UNetResAttnUpBlock2D", "UNetResUpBlock2D"],
    "resnet_act_fn": "silu",
    "num_head_channels": None,
    "center_input_sample": False,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "downscale_freq_shift": 1,
    "mid_block_scale_factor": 1,
    "resnet_eps": 1e-6,
    "resnet_num_groups": 32,
    "time_embedding_type": "positional",
    "conv_resample": True,
}
EARLY_SCHEDULER = {
    "timesteps": 100,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "timestep_values": None,
    "variance_type": "fixed_large",
    "clip_predicted_image": True,
    "tensor_format": "pt",
}
MODERN_SCHEDULER = {
    "num_train_timesteps": 100,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "variance_type": "fixed_large",
    "clip_sample": True,
}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def authors_weights(weights: Mapping[str, Tensor], levels: int = 3) -> dict[str, Tensor]:
    """Rename today's weights as the authors had them."""
    result = {}
    for key, tensor in weights.items():
        name = _authors_name(key, levels)
        is_projection = any(f".{n}." in name for n in ("q", "k", "v", "proj_out"))
        if is_projection and name.endswith("weight"):
            tensor = tensor[:, :, None, None]
        result[name] = tensor.contiguous()
    return result


def _authors_name(key: str, levels: int) -> str:
    first, *rest = key.split(".")
    if first == "time_embedding":
        return f"temb.dense.{int(rest[0][-1]) - 1}.{rest[1]}"
    if first == "conv_norm_out":
        return f"norm_out.{rest[0]}"
    if first in ("conv_in", "conv_out"):
        return key
    if first == "mid_block":
        place = "attn_1" if rest[0] == "attentions" else f"block_{int(rest[1]) + 1}"
        return f"mid.{place}.{_inner(rest[0], rest[2:])}"
    number = int(rest[0]) if first == "down_blocks" else levels - 1 - int(rest[0])
    place = f"{first[: first.index('_')]}.{number}"
    if rest[1].endswith("samplers"):
        return f"{place}.{rest[1][:-3]}e.{'.'.join(rest[3:])}"
    kind = {"resnets": "block", "attentions": "attn"}[rest[1]]
    return f"{place}.{kind}.{rest[2]}.{_inner(rest[1], rest[3:])}"


def _inner(kind: str, rest: list[str]) -> str:
    layer, leaf = ".".join(rest[:-1]), rest[-1]
    if kind == "resnets":
        return (
            f"{layer.replace('time_emb', 'temb').replace('conv_shortcut', 'nin_shortcut')}.{leaf}"
        )
    if layer == "group_norm":
        return f"norm.{leaf}"
    return f"proj_out.{leaf}" if layer == "to_out.0" else f"{layer[-1]}.{leaf}"


def old_attention(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename attention layers as diffusers 0.1 to 0.13 had them."""
    result = {}
    for key, tensor in weights.items():
        for today, then in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            key = key.replace(f".{today}.", f".{then}.")
        result[key] = tensor
    return result


def july_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights as before diffusers 0.1, with the doubled downsampling layers of that time."""
    result = {}
    for key, tensor in old_attention(weights).items():
        name = key.replace("mid_block.", "mid.").replace("down_blocks.", "downsample_blocks.")
        name = name.replace("up_blocks.", "upsample_blocks.")
        result[name] = tensor
        if ".downsamplers." in name:
            result[name.replace(".conv.", ".op.")] = tensor
    return result


def write_early(root: Path, weights: Mapping[str, Tensor], pipeline: str = "DDPM") -> None:
    """Write a folder of diffusers 0.0.4."""
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.0.4",
        "_module": f"pipeline_{pipeline.lower()}",
        "noise_scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNetModel"],
    }
    write_json(root / "model_index.json", index)
    scheduler = {"_class_name": "DDPMScheduler", "_diffusers_version": "0.0.4", **EARLY_SCHEDULER}
    write_json(root / "noise_scheduler" / "scheduler_config.json", scheduler)
    config = {"_class_name": "UNetModel", "_diffusers_version": "0.0.4", **EARLY_CONFIG}
    write_json(root / "unet" / "config.json", config)
    torch.save(authors_weights(weights), root / "unet" / "diffusion_model.pt")


def write_july(root: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a folder as of July 2022, before diffusers 0.1, all files at its root."""
    index = {
        "_class_name": "DDPM",
        "_diffusers_version": "0.0.4",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNetUnconditionalModel"],
    }
    write_json(root / "model_index.json", index)
    scheduler = {**MODERN_SCHEDULER, "_class_name": "DDPMScheduler", "tensor_format": "pt"}
    scheduler["timesteps"] = scheduler.pop("num_train_timesteps")
    write_json(root / "scheduler_config.json", scheduler)
    write_json(root / "config.json", {"_class_name": "UNetUnconditionalModel", **JULY_CONFIG})
    torch.save(july_weights(weights), root / "diffusion_model.pt")


def write_old(root: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a folder of diffusers 0.1."""
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0.1.0",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    write_json(root / "model_index.json", index)
    scheduler = {"_class_name": "DDPMScheduler", **MODERN_SCHEDULER, "tensor_format": "pt"}
    write_json(root / "scheduler" / "scheduler_config.json", scheduler)
    config = {k: v for k, v in MODERN_CONFIG.items() if k != "dropout"}
    config["down_block_types"] = [f"UNetRes{name}" for name in config["down_block_types"]]
    write_json(root / "unet" / "config.json", {"_class_name": "UNet2DModel", **config})
    torch.save(old_attention(weights), root / "unet" / "diffusion_pytorch_model.bin")
