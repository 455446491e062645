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
# Products saved per number added, by either step to the next algorithm.
_WORTH = {"winograd2": (5 / 9) / (7 / 9), "winograd4": (7 / 36) / (20 / 9)}


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
SMALL_BYTES = 2_000_000_000
_SMALL_FACTOR = 1.9
#: A small network's packed weights may take somewhat more, as long as they are not more than this.
_FREE_FACTOR, FREE_BYTES = 2.5, 512 << 20
#: A larger one may take so much more than its smallest packing, in units of its parameters. That is
#: for much of the time that Winograd saves: the layers of the most pixels have the fewest weights.
_LARGE_EXTRA = 0.06
_BYTES = 4


def packing_limit(
    shapes: Sequence[tuple[int, ...]],
    parameters: int,
    available: int | None,
    factor: float | None = PACK_BUDGET,
) -> int:
    """Return how many numbers the packed weights of a network may hold together.

    A budget that is given counts. Otherwise it is 1.9 times the parameters for a network of at
    most 2 GB, or up to 2.5 times as far as that is within :data:`FREE_BYTES`. A larger one is
    packed such that it takes little more than before: the weights that were packed are given back,
    so that their smallest packing comes for nothing, and 0.06 times the parameters are added.
    Whatever the budget, packing takes no more than half of the memory that is free at the first
    call.

    Args:
        shapes: Shapes of the weights that may be packed.
        parameters: How many numbers the network's parameters hold.
        available: Bytes of memory that are free, None if unknown.
        factor: The budget in units of the parameters, None for the rule.
    """
    if factor is not None:
        limit = int(factor * parameters)
    elif parameters * _BYTES <= SMALL_BYTES:
        more = min(int(_FREE_FACTOR * parameters), FREE_BYTES // _BYTES)
        limit = max(int(_SMALL_FACTOR * parameters), more)
    else:
        smallest = sum(packed_floats(shape, "direct") for shape in shapes)
        limit = smallest + int(_LARGE_EXTRA * parameters)
    return limit if available is None else min(limit, available // 2 // _BYTES)


class PackingBudget:
    """Grants algorithms to the layers of one network.

    What each layer may have at most is planned for all together, before the first asks, so that
    answers do not depend on who asks first.

    Args:
        shapes: Shapes of the weights of all layers that may ask; a layer's key is its place.
        pixels: How many of each of them Winograd's algorithm would compute, in any unit.
        limit: How many numbers packed weights may hold.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], pixels: Sequence[float], limit: int
    ) -> None:
        self._shapes = list(shapes)
        self._plan, self._spare = _plan(shapes, pixels, limit)
        self._granted: dict[int, dict[str, str]] = {}

    def grant(self, key: int, algorithm: str) -> str | None:
        """Return the algorithm, a smaller one, or None if nothing may be packed at all.

        A layer may ask again for another algorithm, for example for another size of image. It
        keeps both packings if there is room, and else uses the one that it has.

        Args:
            key: Of the layer.
            algorithm: What the layer would like.
        """
        if self._spare < 0:
            return None
        granted = self._granted.setdefault(key, {})
        if algorithm not in granted:
            granted[algorithm] = self._decide(key, algorithm, list(granted.values()))
        return granted[algorithm]

    def _decide(self, key: int, algorithm: str, has: Sequence[str]) -> str:
        if algorithm in has:
            return algorithm
        if not has:
            return min(algorithm, self._plan[key], key=_ORDER.index)
        size = packed_floats(self._shapes[key], algorithm)
        if size > self._spare:
            return has[0]
        self._spare -= size
        return algorithm


def _plan(
    shapes: Sequence[tuple[int, ...]], pixels: Sequence[float], limit: int
) -> tuple[list[str], int]:
    """Choose an algorithm for each layer such that packed weights save the most time.

    Per number that packing adds, tiles of 2x2 save 5/9 of the products for 7/9 of the weights, and
    from there to tiles of 4x4 it is 7/36 for 20/9: an eighth as much. Either is worth the more, the
    more pixels a layer has.

    Returns:
        The algorithms, and how much of the limit is left; negative if it does not even do for the
        smallest packing.
    """
    plan = ["direct"] * len(shapes)
    spare = limit - sum(packed_floats(shape, "direct") for shape in shapes)
    steps = [
        (worth * pixels[key], key, algorithm)
        for key in range(len(shapes))
        if pixels[key] > 0
        for algorithm, worth in _WORTH.items()
    ]
    # the highest worth first; a layer's step to 2x2 comes before that to 4x4
    for _, key, algorithm in sorted(steps, key=lambda step: (-step[0], step[1])):
        shape, before = shapes[key], plan[key]
        extra = packed_floats(shape, algorithm) - packed_floats(shape, before)
        is_next = _ORDER.index(algorithm) == _ORDER.index(before) + 1
        if is_next and extra <= spare:
            plan[key], spare = algorithm, spare - extra
    return plan, spare
