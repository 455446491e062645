"""What the shapes of weights tell about the network they belong to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from septet.config import brief
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

#: More channels, levels and layers than any network may have.
MAX_CHANNELS = 1 << 14
MAX_LEVELS = 12
MAX_LAYERS = 32


def count(tensors: Mapping[str, Tensor], *keys: str, most: int) -> int:
    """Count for how many consecutive numbers, from 0 on, one of the keys is there.

    Args:
        tensors: Weights by name.
        *keys: Names with ``{}`` in place of the number.
        most: Where to stop.
    """
    for number in range(most):
        if not any(key.format(number) in tensors for key in keys):
            return number
    return most


def count_parts(tensors: Mapping[str, Tensor], owner: str) -> int:
    """Count the numbered parts of a list of layers, whether or not one is missing in between.

    Args:
        tensors: Weights by name.
        owner: Name of the list.
    """
    pattern = re.compile(re.escape(owner) + r"\.(\d+)\.")
    return len({match[1] for key in tensors if (match := pattern.match(key))})


def shape(tensors: Mapping[str, Tensor], key: str, axes: int, path: Path) -> tuple[int, ...]:
    """Return the shape of a weight.

    Args:
        tensors: Weights by name.
        key: Name of the weight.
        axes: How many axes it must have.
        path: The file, for the error message.

    Raises:
        CheckpointError: If it is missing or has another number of axes.
    """
    tensor = tensors.get(key)
    if tensor is None or tensor.ndim != axes:
        found = "no such weight" if tensor is None else f"shape {list(tensor.shape)}"
        raise CheckpointError(f"{path}: {key!r} must have {axes} axes, found {found}")
    return tuple(tensor.shape)


def width(
    tensors: Mapping[str, Tensor], key: str, axis: int, path: Path, *, axes: tuple[int, ...] = (4,)
) -> int:
    """Return an extent of a weight.

    Args:
        tensors: Weights by name.
        key: Name of the weight.
        axis: The axis whose extent is wanted.
        path: The file, for the error message.
        axes: How many axes it may have; four are those of a convolution.

    Raises:
        CheckpointError: If it is missing or has another number of axes.
    """
    tensor = tensors.get(key)
    if tensor is None or tensor.ndim not in axes:
        found = "nothing" if tensor is None else list(tensor.shape)
        kind = "a convolution" if axes == (4,) else f"of {' or '.join(map(str, axes))} axes"
        raise CheckpointError(f"{path}: {brief(key)} must be {kind}, got {found}")
    return tensor.shape[axis]


def unet_levels(tensors: Mapping[str, Tensor], path: Path) -> tuple[int, int]:
    """Count the levels of a UNet and the residual blocks of the first.

    Args:
        tensors: Weights under today's names.
        path: The file, for the error message.

    Raises:
        CheckpointError: If there are none.
    """
    levels = count(tensors, "down_blocks.{}.resnets.0.conv1.weight", most=MAX_LEVELS)
    layers = count(tensors, "down_blocks.0.resnets.{}.conv1.weight", most=MAX_LAYERS)
    if not levels or not layers:
        raise CheckpointError(f"{path}: does not hold the weights of a UNet")
    return levels, layers
