"""Activation functions by the names that model configurations use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": F.silu,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Look up an elementwise activation function.

    Args:
        name: One of ``silu``, ``swish`` (the same), ``mish``, ``gelu`` (the exact one, with the
            error function) and ``relu``; case does not matter.

    Returns:
        The function, from a tensor to a tensor of the same shape and dtype.

    Raises:
        ValueError: If the name is none of these.
    """
    function = ACTIVATIONS.get(name.lower())
    if function is None:
        raise ValueError(f"act_fn must be one of {sorted(ACTIVATIONS)}, got {name!r}")
    return function
