"""Copies of weights in the order in which a kernel reads them, and the memory they may take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from septet.backend import current_backend
from septet.memory import available_bytes, release
from septet.ops import needs_gradient, packed_floats

if TYPE_CHECKING:
    from collections.abc import Callable


def _checked(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = -1.0
    if not factor >= 0:
        raise ValueError(f"SEPTET_PACK_BUDGET must be a number of at least 0, got {text!r}")
    return factor


#: Packed weights of a network may take so many times the memory of its parameters, or nothing is
#: packed. They take about as much as the convolutions among these: only channels are filled up to
#: multiples of 16.
PACK_BUDGET = _checked(os.environ.get("SEPTET_PACK_BUDGET", "2.5"))

_BYTES = 4


def packing_limit(parameters: int, available: int | None, factor: float | None = None) -> int:
    """Return how many numbers the packed weights of a network may hold together.

    Args:
        parameters: How many numbers the network's parameters hold.
        available: Bytes of memory that are free, None if unknown; packing takes no more than half.
        factor: The budget in units of the parameters, None for :data:`PACK_BUDGET`.
    """
    limit = int((PACK_BUDGET if factor is None else factor) * parameters)
    return limit if available is None else min(limit, available // 2 // _BYTES)


def plan_packing(network: nn.Module) -> None:
    """Let the layers of a network pack their weights, if there is memory for all of them."""
    layers = {
        module: weight
        for module in network.modules()
        if isinstance(module, KeepsCopies)
        and isinstance(weight := getattr(module, "weight", None), Tensor)
    }
    parameters = sum(parameter.numel() for parameter in network.parameters())
    needed = sum(packed_floats(weight.shape) for weight in layers.values())
    may_pack = needed <= packing_limit(parameters, available_bytes())
    for layer in layers:
        layer.may_pack = may_pack


def packing_serves(weight: Tensor, input: Tensor, residual: Tensor | None = None) -> bool:
    """Tell whether packed weights can serve: float32 on the CPU, no gradients, no subclass."""
    return (
        input.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and type(weight) in (nn.Parameter, Tensor)
        and input.numel() > 0
        and not needs_gradient(weight, input, residual)
        and not torch.compiler.is_compiling()
        and current_backend() == "fused"
    )


class KeepsCopies:
    """What a layer makes of weights, for example packed ones, and keeps as long as it is valid.

    A mixin for ``torch.nn.Module``. A copy is made anew when the weights change or move; it is
    neither saved nor copied with the layer.

    Attributes:
        may_pack: Whether there is memory for packed weights, see :func:`plan_packing`.
    """

    may_pack = True
    _copies: dict[str, tuple[_Version, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the copies out: oneDNN's tensors cannot be copied, and all are remade."""
        return {**self.__dict__, "_copies": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Forget the copies where parameters move or change their type."""
        self._copies = None
        return super()._apply(fn, recurse)  # type: ignore[misc]

    def _copy_of(self, weight: Tensor, make: Callable[[Tensor], Any], name: str = "packed") -> Any:
        """Return ``make(weight)``, and give back the weight's memory if that is a file's."""
        if self._copies is None:
            self._copies = {}
        kept = self._copies.get(name)
        if kept is None or not kept[0].is_of(weight):
            kept = _Version(weight), make(weight.detach())
            self._copies[name] = kept
            release(weight)
        return kept[1]


class _Version:
    """The values that a weight has now.

    Args:
        weight: While this exists, so does its memory: no other weight can have the same address.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight, self._count = weight.detach(), _changes(weight)

    def is_of(self, weight: Tensor) -> bool:
        """Tell whether a weight is the same one and has not changed."""
        return weight.data_ptr() == self._weight.data_ptr() and _changes(weight) == self._count


def _changes(weight: Tensor) -> int:
    # Inference tensors count no versions: nobody may change them in place.
    return 0 if weight.is_inference() else weight._version
