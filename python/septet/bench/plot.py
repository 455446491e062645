"""Speed-ups as a bar chart, in SVG written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from septet.bench.records import Record, Speedup
from septet.bench.report import speedup_text

_WIDTH, _LABELS, _NOTES = 1000, 430, 250
_BAR, _GAP, _TOP = 16, 6, 56
_STYLE = "font-family='sans-serif' font-size='12'"


def write_svg(records: Sequence[Record], path: Path) -> None:
    """Draw one bar per speed-up over the first baseline of a case, with its accuracy.

    Args:
        records: Of one run or several; those without a speed-up are left out.
        path: The file, which is replaced.
    """
    bars = [(record, record.speedups[0]) for record in records if record.speedups]
    height = _TOP + len(bars) * (_BAR + _GAP) + 20
    lines = [*head(_WIDTH, height)]
    if records:
        runs = [record.run for record in records]
        machines = _distinct(run["host"]["cpu"] for run in runs)
        lines += label(10, 20, f"Speed-up (ratio of medians) on {machines}", size=14)
        versions = _distinct(
            f"{run['threads']} threads, torch {run['torch']}, diffusers {run['diffusers']}"
            for run in runs
        )
        lines += label(10, 38, f"{versions}; in brackets the largest relative error")
    lines += _bars(bars, height)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "</svg>", ""]), encoding="utf-8")


def head(width: int, height: int) -> tuple[str, str]:
    """Begin a picture of so many pixels, and make it white."""
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
        f"viewBox='0 0 {width} {height}' {_STYLE}>",
        "<rect width='100%' height='100%' fill='white'/>",
    )


def _distinct(texts: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(texts))


def _bars(bars: Sequence[tuple[Record, Speedup]], height: int) -> Iterator[str]:
    space = _WIDTH - _LABELS - _NOTES
    scale = space / max((speedup.value for _, speedup in bars), default=1.0)
    for index, (record, speedup) in enumerate(bars):
        y = _TOP + index * (_BAR + _GAP)
        middle = y + _BAR - 4
        length = speedup.value * scale
        name = f"{record.case['name']}, {record.implementation}"
        note = f"{speedup_text(speedup)} [{speedup.accuracy.max_rel:.0e}]"
        yield from label(_LABELS - 8, middle, name, anchor="end", width=_LABELS - 16)
        yield (f"<rect x='{_LABELS}' y='{y}' width='{length:.1f}' height='{_BAR}' fill='#4878a8'/>")
        yield from label(_LABELS + length + 6, middle, note)
    if bars:
        one = _LABELS + min(scale, space)
        yield (
            f"<line x1='{one:.1f}' x2='{one:.1f}' y1='{_TOP - 6}' y2='{height - 14}' "
            "stroke='#a04040' stroke-dasharray='4 3'/>"
        )


def label(
    x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", width: int = 0
) -> Iterator[str]:
    """Write a text; one that would be wider than ``width`` is squeezed."""
    squeeze = ""
    if width and len(text) * size * 0.55 > width:
        squeeze = f" textLength='{width}' lengthAdjust='spacingAndGlyphs'"
    yield (
        f"<text x='{x:.1f}' y='{y}' font-size='{size}' text-anchor='{anchor}'{squeeze}>"
        f"{escape(text)}</text>"
    )
