"""The files of BDDM: weight normalisation, both networks in one file, configurations in shapes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from septet.checkpoints.weight_norm import fold_weight_norm
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

#: Before the names of the schedule network's weights, where a file holds both networks.
SCHEDULE_PREFIX = "schedule_net."
_LAYER = re.compile(r"residual_layer\.residual_blocks\.(\d+)\..*")
_UPSAMPLE = re.compile(r"residual_layer\.residual_blocks\.0\.upsample_conv2d\.(\d+)\.weight")
_BLOCK = re.compile(r"ratio_nn\.blocks\.(\d+)\..*")


def is_authors_diffwave(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether weights are those of BDDM: its score network, with or without the other."""
    return any(key.startswith("residual_layer.residual_blocks.0.") for key in tensors)


def diffwave_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the score network's weights, their normalisation folded.

    Args:
        tensors: Weights by name, perhaps with those of the schedule network.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If a normalised weight is incomplete.
    """
    own = {key: value for key, value in tensors.items() if not key.startswith(SCHEDULE_PREFIX)}
    try:
        return fold_weight_norm(own)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def galr_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the schedule network's weights, alone or out of a file with both networks.

    Args:
        tensors: Weights by name.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If the file holds the score network only.
    """
    own = {
        key.removeprefix(SCHEDULE_PREFIX): value
        for key, value in tensors.items()
        if key.startswith(SCHEDULE_PREFIX)
    }
    if not own and is_authors_diffwave(tensors):
        raise CheckpointError(f"{path}: holds no schedule network")
    return own or dict(tensors)


def diffwave_config(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer the score network's configuration, but for the dilations, from its weights.

    Args:
        tensors: What :func:`diffwave_keys` returned.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If a weight that tells is missing or of an impossible shape.
    """
    block = "residual_layer.residual_blocks.0"
    res_channels, in_channels = _shape(tensors, "init_conv.0.conv.weight", 3, path)[:2]
    skip_channels = _shape(tensors, f"{block}.skip_conv.weight", 3, path)[0]
    middle, embed_in = _shape(tensors, "residual_layer.fc_t1.weight", 2, path)
    upsampling = sorted(key for key in tensors if _UPSAMPLE.fullmatch(key))
    return {
        "in_channels": in_channels,
        "out_channels": _shape(tensors, "final_conv.2.conv.weight", 3, path)[0],
        "res_channels": res_channels,
        "skip_channels": skip_channels,
        "num_res_layers": _count(_LAYER, tensors),
        "diffusion_step_embed_dim_in": embed_in,
        "diffusion_step_embed_dim_mid": middle,
        "diffusion_step_embed_dim_out": _shape(tensors, "residual_layer.fc_t2.weight", 2, path)[0],
        "num_mels": _shape(tensors, f"{block}.mel_conv.conv.weight", 3, path)[1],
        "upsample_factors": [_shape(tensors, key, 4, path)[3] // 2 for key in upsampling],
    }


def galr_config(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer the schedule network's configuration from its weights.

    Args:
        tensors: What :func:`galr_keys` returned.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If a weight that tells is missing or of an impossible shape.
    """
    width, _, window = _shape(tensors, "ratio_nn.encoder.enc_conv.weight", 3, path)
    return {
        "blocks": _count(_BLOCK, tensors),
        "input_dim": width,
        "hidden_dim": _shape(tensors, "ratio_nn.blocks.0.local_rnn.cell_init", 3, path)[2],
        "window_length": window,
        "segment_size": _shape(tensors, "ratio_nn.blocks.0.ld_map.weight", 2, path)[1],
    }


def _count(pattern: re.Pattern[str], tensors: Mapping[str, Tensor]) -> int:
    return len({match[1] for key in tensors if (match := pattern.fullmatch(key))})


def _shape(tensors: Mapping[str, Tensor], key: str, ndim: int, path: Path) -> list[int]:
    if key not in tensors:
        raise CheckpointError(f"{path}: lacks {key!r}")
    shape = list(tensors[key].shape)
    if len(shape) != ndim:
        raise CheckpointError(f"{path}: {key!r} has shape {shape}, expected {ndim} axes")
    return shape
