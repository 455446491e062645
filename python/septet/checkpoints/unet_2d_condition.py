"""``UNet2DConditionModel`` in the files of its authors and of early diffusers, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from septet.checkpoints.compvis_keys import compvis_keys, is_compvis_unet
from septet.checkpoints.keys import july_keys
from septet.checkpoints.shapes import MAX_LAYERS, MAX_LEVELS, count, unet_levels, width
from septet.checkpoints.unet_2d import july_config
from septet.config import brief, check_bool, check_int, each
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

# ``UNetLDMModel`` of diffusers 0.0.x, and the authors' own configurations: keys, and the defaults
# of those that have one.
_EARLY_DEFAULTS: dict[str, Any] = {
    "dropout": 0,
    "channel_mult": (1, 2, 4, 8),
    "num_classes": None,
    "num_heads": -1,
    "num_head_channels": -1,
    "use_scale_shift_norm": False,
    "use_spatial_transformer": False,
    "transformer_depth": 1,
    "context_dim": None,
}
_EARLY_REQUIRED = (
    *("image_size", "in_channels", "model_channels", "out_channels"),
    *("num_res_blocks", "attention_resolutions"),
)
# Keys of networks that are built in another way, with the values that mean these.
_EARLY_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "conv_resample": (True,),
    "dims": (2,),
    "resblock_updown": (False,),
    "n_embed": (None,),
}
# They change nothing about a network with spatial transformers in this library.
_EARLY_IGNORED = (
    *("use_checkpoint", "use_fp16", "use_new_attention_order", "num_heads_upsample"),
    *("legacy", "name_or_path"),
)
# What the networks of the authors have built in.
_FIXED = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
}
# Heads of networks with 1x1 convolutions around a transformer; later ones have 64 channels each.
_HEADS = 8
_HEAD_CHANNELS = 64
#: The sample size of published networks, by the width of their text.
_SAMPLE_SIZES = {1280: 32, 768: 64, 1024: 64}


def condition_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the configuration of a ``UNet2DConditionModel`` of any age to today's keys.

    Args:
        config: The content of a ``config.json``.

    Raises:
        ValueError: If a value of an early one makes no sense; other values are not looked at.
    """
    if config.get("_class_name") == "UNetLDMModel" or "model_channels" in config:
        return _early_config(config)
    return july_config(config, "UNetConditionalModel", {"attention_head_dim": _HEADS})


def condition_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the weights of a ``UNet2DConditionModel`` of any age to today's names.

    Args:
        tensors: Weights by name; of a whole latent diffusion, the UNet's are taken.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If a weight is there under two names.
    """
    if is_compvis_unet(tensors):
        return compvis_keys(tensors, path)
    return july_keys(tensors, path)


def authors_condition_config(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer from its weights how a network of the authors is built.

    Shapes tell neither the number of heads nor the sample size. They are those of the published
    networks: eight heads, or with linear projections as many as 64 channels each allow.

    Args:
        tensors: Weights under today's names.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If the weights are not those of such a network.
    """
    levels, layers = unet_levels(tensors, path)
    transformer = "mid_block.attentions.0"
    if f"{transformer}.transformer_blocks.0.attn2.to_k.weight" not in tensors:
        raise CheckpointError(
            f"{path}: holds a UNet without spatial transformers, which is a 'UNet2DModel'"
        )
    context_dim = width(
        tensors, f"{transformer}.transformer_blocks.0.attn2.to_k.weight", 1, path, axes=(2,)
    )
    projection = f"{transformer}.proj_in.weight"
    width(tensors, projection, 0, path, axes=(2, 4))
    is_linear = tensors[projection].ndim == 2
    widths = tuple(
        width(tensors, f"down_blocks.{level}.resnets.0.conv1.weight", 0, path)
        for level in range(levels)
    )
    depths = [_depth(tensors, f"down_blocks.{level}.attentions.0") for level in range(levels)]
    return {
        **_FIXED,
        "sample_size": _SAMPLE_SIZES.get(context_dim),
        "in_channels": width(tensors, "conv_in.weight", 1, path),
        "out_channels": width(tensors, "conv_out.weight", 0, path),
        "layers_per_block": layers,
        "block_out_channels": widths,
        **_block_types([depth > 0 for depth in depths]),
        "cross_attention_dim": context_dim,
        "attention_head_dim": _heads(widths, is_linear),
        "use_linear_projection": is_linear,
        "transformer_layers_per_block": _depths([*depths[:-1], _depth(tensors, transformer)]),
        "num_class_embeds": _num_classes(tensors, path),
    }


def _early_config(config: Mapping[str, Any]) -> dict[str, Any]:
    values = {**_EARLY_DEFAULTS, **_given(config)}
    for key, high in (
        ("image_size", 1 << 20),
        ("model_channels", 1 << 14),
        ("num_res_blocks", MAX_LAYERS),
        ("transformer_depth", MAX_LAYERS),
    ):
        check_int(key, values[key], 1, high)
    for key, entry in each("channel_mult", values["channel_mult"], 1, MAX_LEVELS):
        check_int(key, entry, 1, 1 << 14)
    for key, entry in each("attention_resolutions", values["attention_resolutions"], 0, 64):
        check_int(key, entry, 1, 1 << 20)
    if values["use_spatial_transformer"] is not True or values["context_dim"] is None:
        raise ValueError(
            "use_spatial_transformer must be true and context_dim given, networks without a text "
            "are read from the files of 'UNet2DModel' only"
        )
    check_bool("use_scale_shift_norm", values["use_scale_shift_norm"])
    widths = tuple(values["model_channels"] * factor for factor in values["channel_mult"])
    attends = [1 << level in values["attention_resolutions"] for level in range(len(widths))]
    scale_shift = values["use_scale_shift_norm"]
    return {
        **_FIXED,
        "sample_size": values["image_size"],
        "in_channels": values["in_channels"],
        "out_channels": values["out_channels"],
        "layers_per_block": values["num_res_blocks"],
        "dropout": values["dropout"],
        "block_out_channels": widths,
        **_block_types(attends),
        "cross_attention_dim": values["context_dim"],
        "attention_head_dim": _early_heads(values, widths),
        "transformer_layers_per_block": values["transformer_depth"],
        "resnet_time_scale_shift": "scale_shift" if scale_shift else "default",
        "num_class_embeds": values["num_classes"],
    }


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of an early configuration that say something, with lists as tuples."""
    given: dict[str, Any] = {}
    for key, value in config.items():
        if key.startswith("_") or key in _EARLY_IGNORED:
            continue
        if key in _EARLY_NEUTRAL:
            if value not in _EARLY_NEUTRAL[key]:
                raise ValueError(
                    f"{key} {brief(value)} is not supported, expected {_EARLY_NEUTRAL[key][0]!r}"
                )
        elif key not in _EARLY_DEFAULTS and key not in _EARLY_REQUIRED:
            known = [*_EARLY_REQUIRED, *_EARLY_DEFAULTS]
            raise ValueError(f"unknown configuration key {key!r}, known are {known}")
        else:
            given[key] = tuple(value) if isinstance(value, list) else value
    for key in _EARLY_REQUIRED:
        if key not in given:
            raise ValueError(f"{key} must be given")
    return given


def _early_heads(values: Mapping[str, Any], widths: tuple[int, ...]) -> int | tuple[int, ...]:
    """Return the number of heads, given as such or by the width of one."""
    if values["num_head_channels"] == -1:
        check_int("num_heads", values["num_heads"], 1, 1 << 14)
        heads: int = values["num_heads"]
        return heads
    check_int("num_head_channels", values["num_head_channels"], 1, min(widths))
    return tuple(channels // values["num_head_channels"] for channels in widths)


def _block_types(attends: list[bool]) -> dict[str, tuple[str, ...]]:
    """Return the block types of a network whose levels attend or do not, going down."""
    prefixes = ["CrossAttn" if attend else "" for attend in attends]
    return {
        "down_block_types": tuple(f"{prefix}DownBlock2D" for prefix in prefixes),
        "up_block_types": tuple(f"{prefix}UpBlock2D" for prefix in reversed(prefixes)),
    }


def _depth(tensors: Mapping[str, Tensor], transformer: str) -> int:
    """Count the blocks of a spatial transformer; 0 if there is none."""
    key = f"{transformer}.transformer_blocks.{{}}.attn2.to_k.weight"
    return count(tensors, key, most=MAX_LAYERS)


def _depths(depths: list[int]) -> int | tuple[int, ...]:
    """Return one number if it serves all levels; 1 where there is nothing to count."""
    known = [depth or 1 for depth in depths]
    return known[-1] if {depth for depth in depths if depth} == {known[-1]} else tuple(known)


def _heads(widths: tuple[int, ...], is_linear: bool) -> int | tuple[int, ...]:
    if not is_linear:
        return _HEADS
    return tuple(max(1, channels // _HEAD_CHANNELS) for channels in widths)


def _num_classes(tensors: Mapping[str, Tensor], path: Path) -> int | None:
    key = "class_embedding.weight"
    return width(tensors, key, 0, path, axes=(2,)) if key in tensors else None
