"""``AutoencoderKL`` and ``VQModel`` in the files of CompVis and of early diffusers, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from septet.checkpoints.early_keys import early_keys
from septet.checkpoints.keys import modern_keys, part
from septet.checkpoints.shapes import MAX_CHANNELS, MAX_LAYERS, MAX_LEVELS, count, width
from septet.config import brief, check_int, each
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

# Where the autoencoder lies in a checkpoint of a whole latent diffusion model.
_PREFIX = "first_stage_model."
# The networks that judged it during its training.
_LOSS = "loss."
_AUTHORS_KEY = "encoder.mid.block_1.conv1.weight"

# The classes of diffusers 0.0.x, whose keys are those of CompVis' ``ddconfig``.
_EARLY_DEFAULTS = {
    "ch_mult": (1, 2, 4, 8),
    "dropout": 0.0,
    "remap": None,
    "sane_index_shape": False,
    "double_z": True,
    "resamp_with_conv": True,
    "give_pre_end": False,
}
_EARLY_REQUIRED = (
    *("ch", "out_ch", "num_res_blocks", "attn_resolutions", "in_channels", "resolution"),
    *("z_channels", "embed_dim"),
)
_EARLY_SAME = {
    "in_channels": "in_channels",
    "out_ch": "out_channels",
    "num_res_blocks": "layers_per_block",
    "z_channels": "latent_channels",
    "resolution": "sample_size",
}
# What those networks have built in, as do all of the authors.
_FIXED = {"act_fn": "silu", "norm_num_groups": 32}
#: The resolution of all configurations that CompVis published.
_SAMPLE_SIZE = 256
#: CompVis scaled the latents of a codebook by nothing.
_VQ_SCALE = 1.0


def kl_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the configuration of an ``AutoencoderKL`` of any age to today's keys.

    Args:
        config: The content of a ``config.json``.

    Raises:
        ValueError: If a value of an early one makes no sense; other values are not looked at.
    """
    if not _is_early(config):
        return dict(config)
    values = _early_values(config, _EARLY_REQUIRED, {"double_z": True})
    if values["embed_dim"] != values["z_channels"]:
        raise ValueError(
            f"embed_dim must equal z_channels, got {brief(values['embed_dim'])} and "
            f"{brief(values['z_channels'])}"
        )
    return _translated(values)


def vq_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the configuration of a ``VQModel`` of any age; see :func:`kl_config`."""
    if not _is_early(config):
        return dict(config)
    values = _early_values(config, (*_EARLY_REQUIRED, "n_embed"), {"double_z": False})
    return {
        **_translated(values),
        "num_vq_embeddings": values["n_embed"],
        "vq_embed_dim": values["embed_dim"],
        "scaling_factor": _VQ_SCALE,
    }


def _is_early(config: Mapping[str, Any]) -> bool:
    return "block_out_channels" not in config and "ch" in config


def _early_values(
    config: Mapping[str, Any], required: tuple[str, ...], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of an early configuration with its defaults, checked."""
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.items()
        if not key.startswith("_")
    }
    known = [*required, *_EARLY_DEFAULTS]
    for key in sorted(given.keys() - set(known)):
        raise ValueError(f"unknown configuration key {key!r}, known are {known}")
    for key in required:
        if key not in given:
            raise ValueError(f"configuration key {key!r} is missing")
    values: dict[str, Any] = {**_EARLY_DEFAULTS, **given}
    built_in = {"resamp_with_conv": True, "give_pre_end": False, "remap": None, **fixed}
    for key, expected in built_in.items():
        if values[key] is not expected:
            raise ValueError(f"{key} must be {expected}, got {brief(values[key])}")
    check_int("resolution", values["resolution"], 1, 1 << 20)
    check_int("ch", values["ch"], 1, MAX_CHANNELS)
    for key, factor in each("ch_mult", values["ch_mult"], 1, MAX_LEVELS):
        check_int(key, factor, 1, MAX_CHANNELS)
    for key, size in each("attn_resolutions", values["attn_resolutions"], 0, 64):
        check_int(key, size, 1, 1 << 20)
    return values


def _translated(values: Mapping[str, Any]) -> dict[str, Any]:
    sizes = [values["resolution"] >> level for level in range(len(values["ch_mult"]))]
    return {
        **{today: values[early] for early, today in _EARLY_SAME.items()},
        **_FIXED,
        "block_out_channels": tuple(values["ch"] * factor for factor in values["ch_mult"]),
        **_block_types([size in values["attn_resolutions"] for size in sizes]),
    }


def _block_types(attends: list[bool]) -> dict[str, tuple[str, ...]]:
    """Return the block types of a network whose levels attend or do not, going down."""
    down = ("AttnDownEncoderBlock2D" if attend else "DownEncoderBlock2D" for attend in attends)
    up = ("AttnUpDecoderBlock2D" if attend else "UpDecoderBlock2D" for attend in attends[::-1])
    return {"down_block_types": tuple(down), "up_block_types": tuple(up)}


def autoencoder_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the weights of an autoencoder of any age to today's names.

    Args:
        tensors: Weights by name, possibly those of a whole latent diffusion model of CompVis.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If a weight is there under two names.
    """
    tensors = part(tensors, _PREFIX)
    tensors = {key: t for key, t in tensors.items() if not key.startswith(_LOSS)}
    if _AUTHORS_KEY in tensors:
        return early_keys(tensors, path)
    return modern_keys(tensors, path)


def is_authors_autoencoder(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether weights have the authors' names, or lie in a file of a whole model."""
    return f"{_PREFIX}{_AUTHORS_KEY}" in tensors or _AUTHORS_KEY in tensors


def infer_kl(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer from its weights how an ``AutoencoderKL`` of the authors is built.

    Args:
        tensors: Weights under today's names.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If the weights are not those of such a network.
    """
    if "quantize.embedding.weight" in tensors:
        raise CheckpointError(f"{path}: holds a codebook, it is a VQModel")
    latents = width(tensors, "post_quant_conv.weight", 0, path)
    return {**_infer(tensors, path), "latent_channels": latents}


def infer_vq(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer from its weights how a ``VQModel`` of the authors is built; see :func:`infer_kl`."""
    codes = "quantize.embedding.weight"
    latents = width(tensors, "post_quant_conv.weight", 0, path)
    return {
        **_infer(tensors, path),
        "latent_channels": latents,
        "num_vq_embeddings": width(tensors, codes, 0, path, axes=(2,)),
        "vq_embed_dim": width(tensors, codes, 1, path, axes=(2,)),
        "scaling_factor": _VQ_SCALE,
    }


def _infer(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    half = "encoder.down_blocks"
    levels = count(tensors, half + ".{}.resnets.0.conv1.weight", most=MAX_LEVELS)
    layers = count(tensors, half + ".0.resnets.{}.conv1.weight", most=MAX_LAYERS)
    if not levels or not layers:
        raise CheckpointError(f"{path}: does not hold the weights of an autoencoder")
    attends = [f"{half}.{level}.attentions.0.to_q.weight" in tensors for level in range(levels)]
    firsts = [f"{half}.{level}.resnets.0.conv1.weight" for level in range(levels)]
    return {
        **_FIXED,
        "sample_size": _SAMPLE_SIZE,
        "in_channels": width(tensors, "encoder.conv_in.weight", 1, path),
        "out_channels": width(tensors, "decoder.conv_out.weight", 0, path),
        "layers_per_block": layers,
        "block_out_channels": tuple(width(tensors, key, 0, path) for key in firsts),
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in tensors,
        **_block_types(attends),
    }
