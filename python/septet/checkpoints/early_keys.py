"""Names of weights in the authors' networks and in diffusers 0.0.x, as tables.

These are the UNets of DDPM, DDIM and PNDM and CompVis' autoencoders, which consist of the same
blocks; the two halves of an autoencoder come first in a name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from septet.checkpoints.keys import renamed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_HALF = r"(?P<half>(?:encoder\.|decoder\.)?)"
_LEVEL, _LAYER = r"(?P<level>\d{1,3})", r"(?P<layer>\d{1,3})"

# Where a layer lies, and where today. The levels of the way up are counted from the highest
# resolution there and from the lowest today, which is what "flipped" is.
_PLACES = {
    r"temb\.dense\.0": "time_embedding.linear_1",
    r"temb\.dense\.1": "time_embedding.linear_2",
    rf"down\.{_LEVEL}\.block\.{_LAYER}": "down_blocks.{level}.resnets.{layer}",
    rf"down\.{_LEVEL}\.attn\.{_LAYER}": "down_blocks.{level}.attentions.{layer}",
    rf"down\.{_LEVEL}\.downsample": "down_blocks.{level}.downsamplers.0",
    r"mid\.block_1": "mid_block.resnets.0",
    r"mid\.attn_1": "mid_block.attentions.0",
    r"mid\.block_2": "mid_block.resnets.1",
    rf"up\.{_LEVEL}\.block\.{_LAYER}": "up_blocks.{flipped}.resnets.{layer}",
    rf"up\.{_LEVEL}\.attn\.{_LAYER}": "up_blocks.{flipped}.attentions.{layer}",
    rf"up\.{_LEVEL}\.upsample": "up_blocks.{flipped}.upsamplers.0",
    r"norm_out": "conv_norm_out",
}
_PATTERNS = [
    (re.compile(rf"{_HALF}{place}(?P<rest>\..+)"), today) for place, today in _PLACES.items()
]
# What a layer is called within its block.
_LAYERS = {
    "resnets": {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut"},
    "attentions": {
        "norm": "group_norm",
        "q": "to_q",
        "k": "to_k",
        "v": "to_v",
        "proj_out": "to_out.0",
    },
}
_UP = re.compile(rf"{_HALF}up\.{_LEVEL}\..+")


def early_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename weights from the authors' names to today's.

    The linear layers of attention blocks, 1x1 convolutions there, become matrices.

    Args:
        tensors: Weights by name.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If two weights end up under the same name.
    """
    top: dict[str, int] = {}
    for match in filter(None, map(_UP.fullmatch, tensors)):
        top[match["half"]] = max(top.get(match["half"], 0), int(match["level"]))
    result = renamed(tensors, lambda key: _early_name(key, top), path)
    return {key: _as_matrix(key, tensor) for key, tensor in result.items()}


def _early_name(key: str, top: Mapping[str, int]) -> str:
    for pattern, today in _PATTERNS:
        match = pattern.fullmatch(key)
        if match is None:
            continue
        groups = match.groupdict()
        level = int(groups.get("level") or 0)
        layer = int(groups.get("layer") or 0)
        flipped = top.get(match["half"], 0) - level
        place = today.format(level=level, layer=layer, flipped=flipped)
        kind = next((kind for kind in _LAYERS if f".{kind}." in f".{place}."), None)
        name, dot, leaf = match["rest"][1:].partition(".")
        name = _LAYERS[kind].get(name, name) if kind else name
        return f"{match['half']}{place}.{name}{dot}{leaf}"
    return key


def _as_matrix(key: str, tensor: Tensor) -> Tensor:
    """Return the weights of a 1x1 convolution in an attention block as a matrix."""
    if ".attentions." in key and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor[:, :, 0, 0]
    return tensor
