"""How much memory the packed weights of a network may take.

Winograd's transform enlarges the weights of a convolution: 16/9 times for tiles of 2x2, 4 times for
tiles of 4x4. ``SEPTET_PACK_BUDGET`` bounds what all layers of a network take together, in units of
its parameters.
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


#: Packed weights of a network may take so many times the memory of its parameters.
PACK_BUDGET = _checked(os.environ.get("SEPTET_PACK_BUDGET", "2.5"))


class PackingBudget:
    """Grants algorithms to the layers of one network.

    A layer of few weights saves as much time as a large one, for it has more pixels. So no layer
    gets what smaller ones may still ask for. What a layer was granted, it keeps: the answers depend
    on the order of the first calls alone, which is that of the network.

    Args:
        shapes: Shapes of the weights of all layers that may ask; a layer's key is its place.
        parameters: How many numbers the network's parameters hold.
        factor: Packed weights may hold so many times as many.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], parameters: int, factor: float = PACK_BUDGET
    ) -> None:
        self._waiting = dict(enumerate(shapes))
        self._granted: dict[tuple[int, str], str | None] = {}
        smallest = sum(packed_floats(shape, "direct") for shape in shapes)
        self._spare = factor * parameters - smallest

    def grant(self, key: int, algorithm: str) -> str | None:
        """Return the algorithm, a smaller one, or None if nothing may be packed at all.

        Args:
            key: Of the layer.
            algorithm: What the layer would like.
        """
        if (key, algorithm) not in self._granted:
            self._granted[key, algorithm] = self._decide(key, algorithm)
        return self._granted[key, algorithm]

    def _decide(self, key: int, algorithm: str) -> str | None:
        shape = self._waiting.get(key)
        if self._spare < 0 or shape is None:
            # a layer that asks a second time, for another size of image, has had its share
            return None if self._spare < 0 else "direct"
        del self._waiting[key]
        size = packed_floats(shape, "direct")
        smaller = [s for s in self._waiting.values() if packed_floats(s, "direct") < size]
        for candidate in _ORDER[_ORDER.index(algorithm) : 0 : -1]:
            wanted = _extra(shape, candidate)
            if wanted + sum(_extra(other, candidate) for other in smaller) <= self._spare:
                self._spare -= wanted
                return candidate
        return "direct"


def _extra(shape: tuple[int, ...], algorithm: str) -> int:
    """Return how many numbers more than the direct packing an algorithm takes."""
    if shape[2:] != (3, 3):
        return 0
    return packed_floats(shape, algorithm) - packed_floats(shape, "direct")
