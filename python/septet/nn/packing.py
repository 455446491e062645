"""How much memory the packed weights of a network may take.

Winograd's transform enlarges the weights of a convolution: 16/9 times for tiles of 2x2, 4 times for
tiles of 4x4. ``SEPTET_PACK_BUDGET`` bounds what all layers of a network take together, in units of
its parameters; :func:`packing_limit` is the rule.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from septet.ops import packed_floats

# From the smallest to the largest packing.
_ORDER = ("direct", "winograd2", "winograd4")


def _checked(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = -1.0
    if not factor >= 0:
        raise ValueError(f"SEPTET_PACK_BUDGET must be a number of at least 0, got {text!r}")
    return factor


#: Packed weights of a network may take so many times the memory of its parameters; None chooses
#: by the network's size, see :func:`packing_limit`.
PACK_BUDGET = None if (_given := os.environ.get("SEPTET_PACK_BUDGET")) is None else _checked(_given)

#: Up to this size of a float32 network, memory is no matter: Winograd wherever it is faster.
SMALL_BYTES = 1_000_000_000
_SMALL_FACTOR = 2.5
#: A larger one may take so much more than its parameters, in units of them. The layers that see the
#: most pixels have the fewest weights, so that most of the time saved is had for it.
_LARGE_EXTRA = 0.01
_BYTES = 4


def packing_limit(
    shapes: Sequence[tuple[int, ...]],
    parameters: int,
    available: int | None,
    factor: float | None = PACK_BUDGET,
) -> int:
    """Return how many numbers the packed weights of a network may hold together.

    A budget that is given counts. Otherwise it is 2.5 times the parameters for a network of at
    most 1 GB. A larger one is packed such that it takes little more than before: the weights that
    were packed are given back, so that their smallest packing comes for nothing. Whatever the
    budget, packing takes no more than half of the memory that is free at the first call.

    Args:
        shapes: Shapes of the weights that may be packed.
        parameters: How many numbers the network's parameters hold.
        available: Bytes of memory that are free, None if unknown.
        factor: The budget in units of the parameters, None for the rule.
    """
    if factor is not None:
        limit = int(factor * parameters)
    elif parameters * _BYTES <= SMALL_BYTES:
        limit = int(_SMALL_FACTOR * parameters)
    else:
        smallest = sum(packed_floats(shape, "direct") for shape in shapes)
        limit = smallest + int(_LARGE_EXTRA * parameters)
    return limit if available is None else min(limit, available // 2 // _BYTES)


class PackingBudget:
    """Grants algorithms to the layers of one network.

    A layer of few weights saves as much time as a large one, for it has more pixels. So no layer
    gets what smaller ones may still ask for. What a layer was granted, it keeps: the answers depend
    on the order of the first calls alone, which is that of the network.

    Args:
        shapes: Shapes of the weights of all layers that may ask; a layer's key is its place.
        limit: How many numbers packed weights may hold.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], limit: int) -> None:
        self._shapes = list(shapes)
        self._waiting = dict(enumerate(shapes))
        self._granted: dict[int, dict[str, str]] = {}
        smallest = sum(packed_floats(shape, "direct") for shape in shapes)
        self._spare = limit - smallest
        self._is_too_little = self._spare < 0

    def grant(self, key: int, algorithm: str) -> str | None:
        """Return the algorithm, a smaller one, or None if nothing may be packed at all.

        A layer may ask again for another algorithm, for example for another size of image. It
        keeps both packings if there is room, and else uses one that it has.

        Args:
            key: Of the layer.
            algorithm: What the layer would like.
        """
        if self._is_too_little:
            return None
        granted = self._granted.setdefault(key, {})
        if algorithm not in granted:
            granted[algorithm] = self._decide(key, algorithm, list(granted.values()))
        return granted[algorithm]

    def _decide(self, key: int, algorithm: str, has: Sequence[str]) -> str:
        if algorithm in has:
            return algorithm
        shape = self._shapes[key]
        self._waiting.pop(key, None)
        size = packed_floats(shape, "direct")
        smaller = [s for s in self._waiting.values() if packed_floats(s, "direct") < size]
        # what the first packing takes has been set aside for it but for the extra
        base = size if has else 0
        for candidate in _ORDER[_ORDER.index(algorithm) :: -1]:
            wanted = base + _extra(shape, candidate)
            if wanted + sum(_extra(other, candidate) for other in smaller) <= self._spare:
                self._spare -= wanted
                return candidate
        return has[0] if has else "direct"


def _extra(shape: tuple[int, ...], algorithm: str) -> int:
    """Return how many numbers more than the direct packing an algorithm takes."""
    if shape[2:] != (3, 3):
        return 0
    return packed_floats(shape, algorithm) - packed_floats(shape, "direct")
