"""What is measured: a row is one case, and the implementations that are timed against each other.

Rows are cheap to list; tensors and networks are made when a row is built.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

#: The modules that list the rows of every suite.
SUITES = {
    "ops": ("scheduler_rows", "op_rows", "attention_rows"),
    "models": ("model_rows", "glide_rows"),
}


@dataclass(frozen=True)
class Implementation:
    """One way to compute a case.

    Attributes:
        name: Who computes it.
        call: What is timed. It may be called any number of times.
        result: Computes the case once, from its original inputs; called before ``call``.
        exact: Computes what ``result`` would be without rounding, None if nothing can.
        is_baseline: Speed-ups of the others are over this one.
    """

    name: str
    call: Callable[[], object]
    result: Callable[[], Sequence[Tensor]]
    exact: Callable[[], Sequence[Tensor]] | None
    is_baseline: bool = False


@dataclass(frozen=True)
class Workload:
    """A row that is ready to run.

    Attributes:
        implementations: In the order in which they are called.
        ref: What their ``exact`` results are, in words.
        num_bytes: Bytes of all tensors that a call reads and writes; 0 if that limits nothing.
        num_flops: Floating-point operations of a call; 0 if that limits nothing.
    """

    implementations: tuple[Implementation, ...]
    ref: str
    num_bytes: int = 0
    num_flops: int = 0


@dataclass(frozen=True)
class Row:
    """One case to measure.

    Attributes:
        suite: "ops" or "models".
        name: Of the case.
        case: The same for the record: dtype, shape and whatever else matters.
        build: Makes it ready to run.
    """

    suite: str
    name: str
    case: dict[str, Any]
    build: Callable[[], Workload]


def select(suite: str = "all", pattern: str = "") -> list[Row]:
    """Return the rows of a suite whose name matches.

    Args:
        suite: "ops", "models" or "all".
        pattern: A regular expression to be found in the name.

    Raises:
        ValueError: If there is no such suite, or the pattern is no regular expression.
    """
    if suite not in (*SUITES, "all"):
        raise ValueError(f"suite must be one of {(*SUITES, 'all')}, got {suite!r}")
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"filter {pattern!r} is no regular expression: {error}") from error
    names = [name for key in SUITES if suite in (key, "all") for name in SUITES[key]]
    modules = [importlib.import_module(f"septet.bench.{name}") for name in names]
    return [row for module in modules for row in module.rows() if wanted.search(row.name)]


@functools.cache
def has_diffusers() -> bool:
    """Tell whether diffusers is there to compare with; does not import it."""
    return importlib.util.find_spec("diffusers") is not None


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as it stands in names: ``4x3x256x256``."""
    return "x".join(map(str, shape))
