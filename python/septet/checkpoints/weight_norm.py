"""Weight normalisation of audio networks: folded once, when weights are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

# Magnitude and direction, as torch's older and its newer form call them.
_SPELLINGS = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace magnitudes and directions by the weights they stand for.

    ``weight = g v / |v|``, the norm taken over all axes along which ``g`` has length 1 (Salimans
    and Kingma 2016). Everything else stays as it is.

    Args:
        tensors: Weights by name, normalised or not.

    Returns:
        The same with ``weight`` where there was a pair, in float32 where that had fewer bits.

    Raises:
        ValueError: If one of a pair is missing, the shapes do not suit, or the folded weight
            is there as well.
    """
    result: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        found = _normalised(key)
        if found is None:
            if key in result:
                raise ValueError(f"weight {key!r} is there with and without normalisation")
            result[key] = tensor
            continue
        stem, magnitude, direction = found
        if not key.endswith(magnitude.removeprefix(stem)):
            if magnitude not in tensors:
                raise ValueError(f"weight {key!r} lacks its magnitude {magnitude!r}")
            continue
        if direction not in tensors:
            raise ValueError(f"weight {key!r} lacks its direction {direction!r}")
        name = f"{stem}.weight"
        if name in result or name in tensors:
            raise ValueError(f"weight {name!r} is there with and without normalisation")
        result[name] = _fold(name, tensor, tensors[direction])
    return result


def _normalised(key: str) -> tuple[str, str, str] | None:
    """Return the stem of a pair's key, and both keys; None if it is not one of a pair."""
    for endings in _SPELLINGS:
        for ending in endings:
            if key.endswith(ending):
                stem = key.removesuffix(ending)
                return stem, stem + endings[0], stem + endings[1]
    return None


def _fold(name: str, magnitude: Tensor, direction: Tensor) -> Tensor:
    shapes_suit = magnitude.dim() == direction.dim() and all(
        g in (1, v) for g, v in zip(magnitude.shape, direction.shape, strict=True)
    )
    if not shapes_suit or not direction.is_floating_point() or not magnitude.is_floating_point():
        raise ValueError(
            f"weight {name!r} has a magnitude of shape {list(magnitude.shape)}, which does not "
            f"suit its direction of shape {list(direction.shape)}"
        )
    axes = [axis for axis, size in enumerate(magnitude.shape) if size == 1]
    # float32 at least: published files hold half precision, whose squares overflow
    wide = torch.promote_types(direction.dtype, torch.float32)
    values = direction.to(wide)
    norm = (
        torch.linalg.vector_norm(values, dim=axes or None, keepdim=True) if axes else values.abs()
    )
    return values * (magnitude.to(wide) / norm)
