"""GLIDE's networks in the files of their authors and in the folders of June 2022."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from septet.checkpoints.keys import renamed
from septet.checkpoints.shapes import count
from septet.config import brief
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# Of ``GlideTextToImageUNetModel`` and ``GlideSuperResUNetModel``, June and July 2022.
_EARLY_KEYS = {"resolution": "sample_size", "transformer_dim": "xf_width"}
_EARLY_DEFAULTS = {
    "in_channels": 3,
    "out_channels": 6,
    "model_channels": 192,
    "num_res_blocks": 3,
    "attention_resolutions": (2, 4, 8),
    "dropout": 0,
    "channel_mult": (1, 2, 4, 8),
    "num_heads": 1,
    "num_head_channels": -1,
}
#: What says that a configuration is of that time.
_EARLY_MARKS = ("resolution", "conv_resample", "transformer_dim")
#: What our networks have built in.
_EARLY_FIXED = {"use_scale_shift_norm": True, "resblock_updown": True, "dims": 2}
_EARLY_IGNORED = ("conv_resample", "use_checkpoint", "use_fp16", "num_heads_upsample")

# Its text encoder, a component of its own.
_TEXT_KEYS = {
    "vocab_size": "n_vocab",
    "max_position_embeddings": "text_ctx",
    "hidden_size": "xf_width",
    "num_hidden_layers": "xf_layers",
    "num_attention_heads": "xf_heads",
    "hidden_act": "hidden_act",
}
_TEXT_PLACES = {
    r"embeddings\.token_embedding\.weight": "token_embedding.weight",
    r"embeddings\.position_embedding\.weight": "positional_embedding",
    r"embeddings\.padding_embedding\.weight": "padding_embedding",
    r"final_layer_norm\.(weight|bias)": r"final_ln.\1",
}
_TEXT_LAYERS = {
    "self_attn.qkv_proj": "attn.c_qkv",
    "self_attn.out_proj": "attn.c_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TEXT_LAYER = re.compile(r"encoder\.layers\.(\d{1,3})\.(.+)\.(weight|bias)")
_TEXT_BUFFER = "text_model.embeddings.position_ids"

#: Width of an attention head in all published networks; weights do not tell it.
_HEAD_WIDTH = 64
_MAX_BLOCKS = 1024


def text_to_image_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the configuration of a base network of any age to today's keys.

    Raises:
        ValueError: If an early one asks for something unsupported.
    """
    return _config(config, {"resolution": 64, "transformer_dim": 512})


def super_resolution_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the configuration of an upsampler of any age to today's keys.

    Those of June 2022 read no text.

    Raises:
        ValueError: If an early one asks for something unsupported.
    """
    return _config(config, {"resolution": 256, "transformer_dim": None})


def _config(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    if not any(key in config for key in _EARLY_MARKS):
        return dict(config)
    for key, only in _EARLY_FIXED.items():
        if config.get(key, only if key == "dims" else False) != only:
            raise ValueError(f"{key} must be {brief(only)}, others are not supported")
    result: dict[str, Any] = {}
    for key, value in {**_EARLY_DEFAULTS, **defaults, **config}.items():
        if key not in _EARLY_FIXED and key not in _EARLY_IGNORED:
            result[_EARLY_KEYS.get(key, key)] = value
    if result["num_head_channels"] == -1:
        result["num_head_channels"] = None
        if config.get("num_heads_upsample", -1) not in (-1, result["num_heads"]):
            raise ValueError("num_heads_upsample must be num_heads, others are not supported")
    return result


def text_encoder_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the configuration of a text encoder of June 2022 to keys of the base network.

    Raises:
        ValueError: If a key is missing, or it asks for something unsupported.
    """
    missing = [key for key in _TEXT_KEYS if key not in config]
    if missing:
        raise ValueError(f"{missing[0]} must be given")
    width = config["hidden_size"]
    fixed: dict[str, Any] = {"use_padding_embeddings": True, "layer_norm_eps": 1e-5}
    if isinstance(width, int):
        fixed["intermediate_size"] = 4 * width
    for key, only in fixed.items():
        if config.get(key) != only:
            raise ValueError(f"{key} must be {only!r}, got {brief(config.get(key))}")
    return {today: config[early] for early, today in _TEXT_KEYS.items()}


def text_encoder_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the weights of a text encoder of June 2022 to the authors' names.

    Args:
        tensors: Weights by name.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If two weights end up under the same name.
    """
    kept = {key: tensor for key, tensor in tensors.items() if key != _TEXT_BUFFER}
    return renamed(kept, _text_name, path)


def _text_name(key: str) -> str:
    place = key.removeprefix("text_model.")
    match = _TEXT_LAYER.fullmatch(place)
    if match and match[2] in _TEXT_LAYERS:
        return f"transformer.resblocks.{match[1]}.{_TEXT_LAYERS[match[2]]}.{match[3]}"
    for pattern, name in _TEXT_PLACES.items():
        if re.fullmatch(pattern, place):
            return re.sub(pattern, name, place)
    return key


# -- the authors' files -------------------------------------------------------------------------


def plain_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return weights as they are: the names are the authors'."""
    del path
    return dict(tensors)


def is_authors_glide(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether weights are those of a GLIDE network."""
    return "time_embed.0.weight" in tensors


def base_settings(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer from the weights of ``base.pt``, or one like it, how the network is built.

    Args:
        tensors: Weights by name.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If they are not those of such a network, or do not tell.
    """
    settings = _settings(tensors, path)
    if settings["xf_width"] is None:
        raise CheckpointError(f"{path}: holds no text transformer, so it is no base network")
    return settings


def upsampler_settings(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer from the weights of ``upsample.pt``, or one like it, how the network is built.

    Args:
        tensors: See :func:`base_settings`.
        path: The same.

    Raises:
        CheckpointError: The same.
    """
    return _settings(tensors, path)


def _settings(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    first = ("input_blocks.{}.0.weight", "input_blocks.{}.0.in_layers.0.weight")
    blocks = count(tensors, *first, most=_MAX_BLOCKS)
    doubling = re.compile(r"output_blocks\.\d{1,4}\.[12]\.in_layers\.0\.weight")
    levels = 1 + sum(bool(doubling.fullmatch(key)) for key in tensors)
    layers = blocks // levels - 1
    if layers < 1 or blocks % levels:
        raise CheckpointError(f"{path}: does not hold the weights of a GLIDE network")
    starts = [1 + level * (layers + 1) for level in range(levels)]
    width = _size(tensors, "time_embed.0.weight", 1, path)
    widths = [_size(tensors, f"input_blocks.{i}.0.in_layers.2.weight", 0, path) for i in starts]
    settings = {
        "in_channels": _size(tensors, "input_blocks.0.0.weight", 1, path),
        "out_channels": _size(tensors, "out.2.weight", 0, path),
        "model_channels": width,
        "channel_mult": tuple(channels // max(width, 1) for channels in widths),
        "num_res_blocks": layers,
        "attention_resolutions": tuple(
            1 << level
            for level, i in enumerate(starts)
            if f"input_blocks.{i}.1.qkv.weight" in tensors
        ),
        "num_head_channels": _HEAD_WIDTH,
        "xf_width": None,
    }
    if "transformer_proj.weight" in tensors:
        settings |= _text_settings(tensors, path)
    return settings


def _text_settings(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    width = _size(tensors, "token_embedding.weight", 1, path)
    return {
        "n_vocab": _size(tensors, "token_embedding.weight", 0, path),
        "text_ctx": _size(tensors, "positional_embedding", 0, path),
        "xf_width": width,
        "xf_layers": count(tensors, "transformer.resblocks.{}.ln_1.weight", most=_MAX_BLOCKS),
        "xf_heads": max(width // _HEAD_WIDTH, 1),
    }


def _size(tensors: Mapping[str, Tensor], key: str, axis: int, path: Path) -> int:
    tensor = tensors.get(key)
    if tensor is None or tensor.ndim < 2:
        raise CheckpointError(f"{path}: does not hold the weights of a GLIDE network: lacks {key}")
    return tensor.shape[axis]
