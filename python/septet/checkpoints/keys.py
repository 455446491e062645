"""Names of weights: older spellings of diffusers, and the check that a file suits a network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

# Attention layers of the image networks in diffusers 0.1 to 0.13.
_OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)")
_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# Parts of the UNets of July 2022, before release 0.1.
_JULY_PARTS = {
    "time_steps": "time_proj",
    "mid": "mid_block",
    "downsample_blocks": "down_blocks",
    "upsample_blocks": "up_blocks",
}
# Resampling layers of that time were saved under a second name.
_TWIN = re.compile(r"(.*\b(?:down|up)samplers\.\d+\.)(?:op|Conv2d_0)\.(weight|bias)")

_MAX_LISTED = 4


def renamed(
    tensors: Mapping[str, Tensor], rename: Callable[[str], str], path: Path
) -> dict[str, Tensor]:
    """Rename weights.

    Args:
        tensors: Weights by name.
        rename: Maps an old name to today's, and today's to itself.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If two weights end up under the same name.
    """
    result: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = rename(key)
        if name in result:
            raise CheckpointError(f"{path}: holds {name!r} under its older name too")
        result[name] = tensor
    return result


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix, without it; all if none does.

    Args:
        tensors: Weights by name.
        prefix: Where a network lies in the file of several, such as ``"first_stage_model."``.
    """
    return under(tensors, prefix) or dict(tensors)


def modern_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the weights of attention layers from diffusers 0.1 to 0.13 to today's names.

    Args:
        tensors: Weights by name, in either spelling.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If a weight is there in both spellings.
    """
    return renamed(tensors, _modern_attention, path)


def july_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the weights of a UNet of July 2022, before diffusers 0.1, to today's names.

    Args:
        tensors: Weights by name, in either spelling.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If a weight is there in both spellings, or the twin of a weight differs.
    """
    return modern_keys(renamed(_without_twins(tensors, path), _july_part, path), path)


def _modern_attention(key: str) -> str:
    match = _OLD_ATTENTION.fullmatch(key)
    return f"{match[1]}{_ATTENTION_NAMES[match[2]]}.{match[3]}" if match else key


def _july_part(key: str) -> str:
    part, dot, rest = key.partition(".")
    return f"{_JULY_PARTS.get(part, part)}{dot}{rest}"


def _without_twins(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Give twins their proper name, and drop those whose proper name is there as well."""
    result = {key: tensor for key, tensor in tensors.items() if not _TWIN.fullmatch(key)}
    for key, tensor in tensors.items():
        match = _TWIN.fullmatch(key)
        if match is None:
            continue
        name = f"{match[1]}conv.{match[2]}"
        other = result.setdefault(name, tensor)
        if other is not tensor and not _equal(other, tensor):
            raise CheckpointError(f"{path}: {key!r} must equal {name!r}, of which it is a copy")
    return result


def _equal(one: Tensor, other: Tensor) -> bool:
    dense = all(t.layout == torch.strided and t.device.type == "cpu" for t in (one, other))
    return dense and one.dtype == other.dtype and torch.equal(one, other)


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
