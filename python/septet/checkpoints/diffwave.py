"""The files of BDDM: weight normalisation, both networks in one file, configurations in shapes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from septet.checkpoints.keys import under
from septet.checkpoints.shapes import count_parts, shape
from septet.checkpoints.weight_norm import fold_weight_norm
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

#: Before the names of the schedule network's weights, where a file holds both networks.
SCHEDULE_PREFIX = "schedule_net."
_UPSAMPLE = re.compile(r"residual_layer\.residual_blocks\.0\.upsample_conv2d\.(\d+)\.weight")


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
    own = under(tensors, SCHEDULE_PREFIX)
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
    res_channels, in_channels = shape(tensors, "init_conv.0.conv.weight", 3, path)[:2]
    skip_channels = shape(tensors, f"{block}.skip_conv.weight", 3, path)[0]
    middle, embed_in = shape(tensors, "residual_layer.fc_t1.weight", 2, path)
    upsampling = sorted(key for key in tensors if _UPSAMPLE.fullmatch(key))
    return {
        "in_channels": in_channels,
        "out_channels": shape(tensors, "final_conv.2.conv.weight", 3, path)[0],
        "res_channels": res_channels,
        "skip_channels": skip_channels,
        "num_res_layers": count_parts(tensors, "residual_layer.residual_blocks"),
        "diffusion_step_embed_dim_in": embed_in,
        "diffusion_step_embed_dim_mid": middle,
        "diffusion_step_embed_dim_out": shape(tensors, "residual_layer.fc_t2.weight", 2, path)[0],
        "num_mels": shape(tensors, f"{block}.mel_conv.conv.weight", 3, path)[1],
        "upsample_factors": [shape(tensors, key, 4, path)[3] // 2 for key in upsampling],
    }


def galr_config(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer the schedule network's configuration from its weights.

    Args:
        tensors: What :func:`galr_keys` returned.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If a weight that tells is missing or of an impossible shape.
    """
    width, _, window = shape(tensors, "ratio_nn.encoder.enc_conv.weight", 3, path)
    return {
        "blocks": count_parts(tensors, "ratio_nn.blocks"),
        "input_dim": width,
        "hidden_dim": shape(tensors, "ratio_nn.blocks.0.local_rnn.cell_init", 3, path)[2],
        "window_length": window,
        "segment_size": shape(tensors, "ratio_nn.blocks.0.ld_map.weight", 2, path)[1],
    }
