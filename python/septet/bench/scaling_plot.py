"""Time over the number of operations, with the line that fits, in SVG written by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from septet.bench.plot import head, label
from septet.bench.records import Record

_WIDTH, _HEIGHT = 1000, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 30, 60, 50
#: The band around the line.
_BAND = 0.15


@dataclass(frozen=True)
class Model:
    """Seconds of an evaluation: ``overhead + operations / rate``.

    Attributes:
        overhead: Seconds that depend on neither batch nor size: reading the packed weights.
        rate: Operations per second.
    """

    overhead: float
    rate: float

    def seconds(self, operations: float) -> float:
        """Predict how long so many operations take."""
        return self.overhead + operations / self.rate

    @classmethod
    def fit(cls, points: Sequence[tuple[float, float]]) -> Model:
        """Fit to (operations, seconds) by least squares of the relative deviations.

        Raises:
            ValueError: If there are fewer than two different numbers of operations, or time does
                not grow with them.
        """
        if len({operations for operations, _ in points}) < 2:
            raise ValueError("a line needs two different numbers of operations")
        # of seconds = a + b * operations, each equation divided by its seconds
        ones = sum(1 / t**2 for _, t in points)
        mixed = sum(n / t**2 for n, t in points)
        squares = sum((n / t) ** 2 for n, t in points)
        right = sum(1 / t for _, t in points), sum(n / t for n, t in points)
        determinant = ones * squares - mixed**2
        slope = (ones * right[1] - mixed * right[0]) / determinant
        overhead = (squares * right[0] - mixed * right[1]) / determinant
        if overhead < 0:  # no machine does that: a line through the origin fits best then
            overhead, slope = 0.0, right[1] / squares
        if slope <= 0:
            raise ValueError("time does not grow with the number of operations")
        return cls(overhead, 1 / slope)


def write_scaling_svg(records: Sequence[Record], path: Path) -> None:
    """Draw the median of every case of suite ``scaling`` over its operations.

    Args:
        records: Of one run or several; those of other suites are left out.
        path: The file, which is replaced.

    Raises:
        ValueError: If no line can be fitted, see :meth:`Model.fit`.
    """
    chosen = [record for record in records if record.suite == "scaling" and record.roofline]
    points = [(r.roofline.amount, r.latency.p50) for r in chosen if r.roofline]
    model = Model.fit(points)
    run = chosen[0].run
    worst = max(abs(t / model.seconds(n) - 1) for n, t in points)
    within = sum(abs(t / model.seconds(n) - 1) <= _BAND for n, t in points)
    lines = [*head(_WIDTH, _HEIGHT)]
    title = f"{chosen[0].case['model']}: time of an evaluation over its operations"
    lines += label(10, 20, f"{title}, {run['host']['cpu']}, {run['threads']} threads", size=14)
    fitted = (
        f"line: {model.overhead * 1e3:.1f} ms + operations / {model.rate / 1e9:.0f} GFLOP/s, "
        f"band: {_BAND:.0%}; {within} of {len(points)} points in it, the furthest {worst:.0%} away"
    )
    lines += label(10, 40, fitted)
    lines += _drawing(chosen, points, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "</svg>", ""]), encoding="utf-8")


def _drawing(
    records: Sequence[Record], points: Sequence[tuple[float, float]], model: Model
) -> Iterator[str]:
    lowest = math.log(min(n for n, _ in points)) - 0.2, math.log(min(t for _, t in points)) - 0.3
    highest = math.log(max(n for n, _ in points)) + 0.2, math.log(max(t for _, t in points)) + 0.3

    def place(operations: float, seconds: float) -> tuple[float, float]:
        across = (math.log(operations) - lowest[0]) / (highest[0] - lowest[0])
        up = (math.log(seconds) - lowest[1]) / (highest[1] - lowest[1])
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    steps = [lowest[0] + (highest[0] - lowest[0]) * i / 60 for i in range(61)]

    def curve(factor: float) -> list[str]:
        places = (place(math.exp(s), model.seconds(math.exp(s)) * factor) for s in steps)
        return [f"{x:.1f},{y:.1f}" for x, y in places]

    band = " ".join(curve(1 + _BAND) + curve(1 - _BAND)[::-1])
    yield f"<polygon points='{band}' fill='#dde6f0'/>"
    yield f"<polyline points='{' '.join(curve(1))}' fill='none' stroke='#4878a8'/>"
    for record, (operations, seconds) in zip(records, points, strict=True):
        x, y = place(operations, seconds)
        yield f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='#a04040'/>"
        note = f"{record.case['shape']}: {seconds * 1e3:.0f} ms"
        yield from label(x + 8, y + 14, note, size=11)
    for power in range(math.ceil(lowest[0] / math.log(2)), int(highest[0] / math.log(2)) + 1):
        x, _ = place(2.0**power, points[0][1])
        yield from label(x, _HEIGHT - 30, f"{2**power / 1e9:.3g}", anchor="middle")
    yield from label(
        _WIDTH - _RIGHT, _HEIGHT - 10, "GFLOP of matrix products and convolutions", anchor="end"
    )
    for power in range(math.ceil(lowest[1] / math.log(2)), int(highest[1] / math.log(2)) + 1):
        _, y = place(points[0][0], 2.0**power)
        yield from label(_LEFT - 10, y + 4, f"{2.0**power * 1e3:.3g} ms", anchor="end")
