"""The networks of Grad-TTS and HiFi-GAN in the files of their authors and of diffusers in 2022."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from septet.checkpoints.keys import under
from septet.checkpoints.shapes import count_parts, shape
from septet.checkpoints.weight_norm import fold_weight_norm
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# The authors' one file holds both networks.
_ENCODER, _DECODER = "encoder.", "decoder.estimator."
_SPEAKERS = "spk_emb.weight"
# Weights of July 2022 that no layer of the network read: its blocks were made of another network's.
_UNUSED = re.compile(
    r"mid\..*|(.*\.)?(norm1|conv1|norm2|conv2|temb_proj|nin_shortcut|op|Conv2d_0)\.\w+"
)

# Of the authors' HiFi-GAN configuration: how it was trained, and on what.
_TRAINING_KEYS = frozenset(
    "num_gpus batch_size learning_rate adam_b1 adam_b2 lr_decay seed resblock_initial_channel"
    " segment_size num_freq n_fft hop_size win_size fmin fmax fmax_loss num_workers"
    " dist_config".split()
)


def is_authors(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether a file is the authors' ``grad-tts.pt``, which holds both networks."""
    return any(key.startswith(_DECODER) for key in tensors)


def text_encoder_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Take the text encoder out of the authors' file, and leave any other file as it is."""
    del path
    if not is_authors(tensors):
        return dict(tensors)
    return under(tensors, _ENCODER)


def decoder_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Take the decoder out of the authors' file; drop what the network of July 2022 did not use."""
    del path
    if not is_authors(tensors):
        return {key: tensor for key, tensor in tensors.items() if not _UNUSED.fullmatch(key)}
    speakers = {_SPEAKERS: tensors[_SPEAKERS]} if _SPEAKERS in tensors else {}
    return under(tensors, _DECODER) | speakers


def text_encoder_config(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer the configuration of a text encoder from the shapes of its weights.

    Raises:
        CheckpointError: If a weight is missing or has no such shape.
    """
    n_vocab, n_channels = shape(tensors, "emb.weight", 2, path)
    _, table_size, head_dim = shape(tensors, "encoder.attn_layers.0.emb_rel_k", 3, path)
    filter_channels, _, kernel_size = shape(tensors, "encoder.ffn_layers.0.conv_1.weight", 3, path)
    return {
        "n_vocab": n_vocab,
        "n_feats": shape(tensors, "proj_m.weight", 3, path)[0],
        "n_channels": n_channels,
        "filter_channels": filter_channels,
        "filter_channels_dp": shape(tensors, "proj_w.conv_1.weight", 3, path)[0],
        "n_heads": n_channels // max(head_dim, 1),
        "n_layers": count_parts(tensors, "encoder.attn_layers"),
        "kernel_size": kernel_size,
        "window_size": table_size // 2,
    }


def decoder_config(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer the configuration of a decoder from the shapes of its weights.

    The number of mel bins shows only with several speakers, and the scale of the times nowhere:
    both have the published default otherwise.

    Raises:
        CheckpointError: If a weight is missing or has no such shape.
    """
    dim = max(shape(tensors, "mlp.0.weight", 2, path)[1], 1)
    widths = [
        shape(tensors, f"downs.{level}.0.block1.block.0.weight", 4, path)[0]
        for level in range(count_parts(tensors, "downs"))
    ]
    config: dict[str, Any] = {"dim": dim, "dim_mults": tuple(width // dim for width in widths)}
    if _SPEAKERS in tensors:
        config["n_spks"], config["spk_emb_dim"] = shape(tensors, _SPEAKERS, 2, path)
        config["n_feats"] = shape(tensors, "spk_mlp.2.weight", 2, path)[0]
    return config


def hifigan_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Fold the weight normalisation.

    Raises:
        CheckpointError: If a normalised weight is incomplete.
    """
    try:
        return fold_weight_norm(tensors)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def hifigan_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of the authors' configuration what only their training reads."""
    return {key: value for key, value in config.items() if key not in _TRAINING_KEYS}
