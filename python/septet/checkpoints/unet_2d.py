"""``UNet2DModel`` in the files of its authors and of early diffusers, as tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from septet.checkpoints.compvis_keys import compvis_keys, is_compvis_unet
from septet.checkpoints.early_keys import early_keys
from septet.checkpoints.keys import july_keys, renamed
from septet.checkpoints.shapes import MAX_CHANNELS, MAX_LEVELS, unet_levels, width
from septet.config import check_bool, check_int, each
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

# ``UNetModel`` of diffusers 0.0.x: keys and defaults.
_EARLY_DEFAULTS = {
    "ch": 128,
    "out_ch": 3,
    "ch_mult": (1, 1, 2, 2, 4, 4),
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
    "dropout": 0.0,
    "resamp_with_conv": True,
    "in_channels": 3,
    "resolution": 256,
}
_EARLY_SAME = {
    "resolution": "sample_size",
    "in_channels": "in_channels",
    "out_ch": "out_channels",
    "num_res_blocks": "layers_per_block",
    "dropout": "dropout",
}
# What those networks have built in, as do all of the authors.
_EARLY_FIXED = {
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
# The same of latent diffusion's networks without a text. Shapes tell neither the width of a head
# nor the sample size; both are those of the published ones.
_COMPVIS_FIXED = {
    **_EARLY_FIXED,
    "attention_head_dim": 32,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-5,
}
_COMPVIS_SIZE = 64
# Names within its attention layers. Query, key and value are one layer, see unet_heads.
_COMPVIS_ATTENTION = re.compile(r"(.*\battentions\.\d+\.)(norm|proj_out)\.(weight|bias)")
_COMPVIS_NAMES = {"norm": "group_norm", "proj_out": "to_out.0"}
_PACKED = re.compile(r"(.*\battentions\.\d+\.)qkv\.(weight|bias)")
#: The resolution at which all published networks of the authors attend.
_ATTENTION_SIZE = 16

# ``UNetUnconditionalModel`` of July 2022.
_JULY_KEYS = {
    "image_size": "sample_size",
    "num_res_blocks": "layers_per_block",
    "block_channels": "block_out_channels",
    "down_blocks": "down_block_types",
    "up_blocks": "up_block_types",
    "downscale_freq_shift": "freq_shift",
    "resnet_num_groups": "norm_num_groups",
    "resnet_act_fn": "act_fn",
    "resnet_eps": "norm_eps",
    "num_head_channels": "attention_head_dim",
}
_JULY_DEFAULTS = {"attention_head_dim": 32}
# They chose between networks that were merged at that time, and mean nothing for this one.
_JULY_IGNORED = (
    *("conv_resample", "attention_resolutions", "ldm", "ddpm", "out_ch", "resolution"),
    *("attn_resolutions", "resamp_with_conv", "ch_mult", "ch"),
)
_BLOCK_PREFIX = "UNetRes"


def unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the configuration of a ``UNet2DModel`` of any age to today's keys.

    Args:
        config: The content of a ``config.json``.

    Raises:
        ValueError: If a value of an early one makes no sense; other values are not looked at.
    """
    widths = ("block_out_channels", "block_channels")
    is_early = config.get("_class_name") == "UNetModel" or config.get("ch_mult") is not None
    if is_early and not any(key in config for key in widths):
        return _early_config(config)
    return july_config(config, "UNetUnconditionalModel", _JULY_DEFAULTS)


def _early_config(config: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.items()
        if not key.startswith("_")
    }
    unknown = sorted(given.keys() - _EARLY_DEFAULTS.keys())
    if unknown:
        raise ValueError(
            f"unknown configuration key {unknown[0]!r}, known are {[*_EARLY_DEFAULTS]}"
        )
    values: dict[str, Any] = {**_EARLY_DEFAULTS, **given}
    check_int("resolution", values["resolution"], 1, 1 << 20)
    check_int("ch", values["ch"], 1, MAX_CHANNELS)
    for key, factor in each("ch_mult", values["ch_mult"], 1, MAX_LEVELS):
        check_int(key, factor, 1, MAX_CHANNELS)
    for key, size in each("attn_resolutions", values["attn_resolutions"], 0, 64):
        check_int(key, size, 1, 1 << 20)
    check_bool("resamp_with_conv", values["resamp_with_conv"])
    if not values["resamp_with_conv"]:
        raise ValueError("resamp_with_conv must be true, resampling without is not supported")
    sizes = [values["resolution"] >> level for level in range(len(values["ch_mult"]))]
    return {
        **{today: values[early] for early, today in _EARLY_SAME.items()},
        **_EARLY_FIXED,
        "block_out_channels": tuple(values["ch"] * factor for factor in values["ch_mult"]),
        **_block_types([size in values["attn_resolutions"] for size in sizes]),
    }


def _block_types(attends: list[bool]) -> dict[str, tuple[str, ...]]:
    """Return the block types of a network whose levels attend or do not, going down."""
    down = tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends)
    up = tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends))
    return {"down_block_types": down, "up_block_types": up}


def july_config(
    config: Mapping[str, Any], class_name: str, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Translate the keys of July 2022; a configuration of a later time stays as it is.

    Args:
        config: The content of a ``config.json``.
        class_name: The name of the class in July 2022.
        defaults: Its defaults, under today's names, where they were others than today's.

    Raises:
        ValueError: If a key is there under two names.
    """
    result: dict[str, Any] = {}
    is_july = config.get("_class_name") == class_name or "block_channels" in config
    if is_july:
        result.update(defaults)
    seen: dict[str, str] = {}
    for key, value in config.items():
        if is_july and key in _JULY_IGNORED:
            continue
        today = _JULY_KEYS.get(key, key)
        if seen.setdefault(today, key) != key:
            raise ValueError(f"{key} must not be given together with {seen[today]}")
        result[today] = _block_names(value) if today.endswith("_block_types") else value
    return result


def _block_names(value: object) -> object:
    """Drop what block types began with in July 2022."""
    if not isinstance(value, list | tuple):
        return value
    return [name.removeprefix(_BLOCK_PREFIX) if isinstance(name, str) else name for name in value]


def unet_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the weights of a ``UNet2DModel`` of any age to today's names.

    Args:
        tensors: Weights by name.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If a weight is there under two names.
    """
    if is_compvis_unet(tensors):
        return renamed(compvis_keys(tensors, path), _compvis_attention, path)
    if is_authors_unet(tensors):
        return early_keys(tensors, path)
    return july_keys(tensors, path)


def is_authors_unet(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether weights have the authors' names."""
    return "temb.dense.0.weight" in tensors or is_compvis_unet(tensors)


def authors_config(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer from its weights how a network of the authors is built.

    Its sample size is known where one level attends, as in all published ones: there the sample
    has 16 pixels.

    Args:
        tensors: Weights under today's names.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If the weights are not those of such a network.
    """
    levels, layers = unet_levels(tensors, path)
    if any(".transformer_blocks." in key for key in tensors):
        raise CheckpointError(
            f"{path}: holds a UNet with spatial transformers, which is a 'UNet2DConditionModel'"
        )
    attends = [
        f"down_blocks.{level}.attentions.0.group_norm.weight" in tensors for level in range(levels)
    ]
    is_compvis = any(_PACKED.fullmatch(key) for key in tensors)
    size = _ATTENTION_SIZE << attends.index(True) if sum(attends) == 1 else None
    return {
        **(_COMPVIS_FIXED if is_compvis else _EARLY_FIXED),
        "sample_size": _COMPVIS_SIZE if is_compvis else size,
        "in_channels": width(tensors, "conv_in.weight", 1, path),
        "out_channels": width(tensors, "conv_out.weight", 0, path),
        "layers_per_block": layers,
        "block_out_channels": tuple(
            width(tensors, f"down_blocks.{level}.resnets.0.conv1.weight", 0, path)
            for level in range(levels)
        ),
        **_block_types(attends),
    }


def unet_heads(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path
) -> dict[str, Tensor]:
    """Take apart query, key and value of latent diffusion's network without a text.

    They are one layer there, whose rows are query, key and value of the first head, of the second
    head, and so on.

    Args:
        tensors: Weights under today's names, but for these.
        config: The network's configuration, which tells how wide a head is.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If they do not have the shape of such a layer.
    """
    result: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = _PACKED.fullmatch(key)
        if match is None or tensor.layout != torch.strided:
            is_matrix = key.endswith(".to_out.0.weight") and tensor.ndim == 3
            result[key] = tensor.squeeze(-1) if is_matrix else tensor
            continue
        channels = tensor.shape[0] // 3 if tensor.ndim else 0
        head_dim = config["attention_head_dim"] or channels
        if not channels or tensor.shape[0] % 3 or channels % head_dim:
            raise CheckpointError(
                f"{path}: {key!r} must hold query, key and value of heads {head_dim} wide, got "
                f"shape {list(tensor.shape)}"
            )
        parts = tensor.reshape(channels // head_dim, 3, head_dim, *tensor.shape[1:]).unbind(1)
        for name, one in zip(("to_q", "to_k", "to_v"), parts, strict=True):
            rows = one.flatten(0, 1)
            result[f"{match[1]}{name}.{match[2]}"] = rows.squeeze(-1) if rows.ndim == 3 else rows
    return result


def _compvis_attention(key: str) -> str:
    match = _COMPVIS_ATTENTION.fullmatch(key)
    return f"{match[1]}{_COMPVIS_NAMES[match[2]]}.{match[3]}" if match else key
