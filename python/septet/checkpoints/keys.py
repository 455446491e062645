"""Names of weights: older spellings, and the check that a file suits a network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Attention layers of the image networks in diffusers 0.1 to 0.13.
_OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)")
_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

_MAX_LISTED = 4


def modern_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename weights from the older spellings of diffusers to today's.

    Args:
        tensors: Weights by name, in either spelling.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If a weight is there in both spellings.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = _OLD_ATTENTION.fullmatch(key)
        name = f"{match[1]}{_ATTENTION_NAMES[match[2]]}.{match[3]}" if match else key
        if name in renamed:
            raise CheckpointError(f"{path}: holds {name!r} under its older name too")
        renamed[name] = tensor
    return renamed


def match_keys(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that a file holds exactly the weights of a network.

    Args:
        expected: The network's weights by name; only their shapes matter.
        tensors: What the file holds.
        path: The file, for the error message.

    Raises:
        CheckpointError: If a weight is missing, unexpected, of another shape, or not a dense
            floating tensor.
    """
    missing = [key for key in expected if key not in tensors]
    if missing:
        raise CheckpointError(f"{path}: lacks {_listed(missing)}")
    unexpected = [key for key in tensors if key not in expected]
    if unexpected:
        raise CheckpointError(f"{path}: holds unexpected {_listed(unexpected)}")
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{path}: {key!r} has shape {list(tensor.shape)}, expected "
                f"{list(expected[key].shape)}"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {key!r} has dtype {tensor.dtype}, expected a floating one"
            )
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(
                f"{path}: {key!r} is a {tensor.device.type} tensor of layout {tensor.layout}, "
                "expected a dense one with values"
            )


def _listed(keys: list[str]) -> str:
    text = ", ".join(repr(key) for key in keys[:_MAX_LISTED])
    more = len(keys) - _MAX_LISTED
    return f"{text} and {more} more" if more > 0 else text
