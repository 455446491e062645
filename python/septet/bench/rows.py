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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: The modules that list the rows of every suite.
SUITES = {
    "ops": ("scheduler_rows", "loop_rows", "op_rows", "attention_rows", "conv_rows"),
    "models": ("model_rows",),
    "pipelines": ("pipeline_rows",),
    "startup": ("startup_rows",),
    "scaling": ("scaling_rows",),
    "large": ("large_rows", "glide_rows"),
    "cuda": ("cuda_rows",),
    "speech": ("speech_rows",),
}
#: What "all" stands for. The others take gigabytes and long: they are asked for by name.
QUICK_SUITES = ("ops", "models", "pipelines", "startup")
#: In which order the values of weights and images may lie.
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


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
        device: Where it runs, and so what it is compared with: "cpu" or "cuda".
        dtype: Type that a CUDA device is to multiply in.
    """

    implementations: tuple[Implementation, ...]
    ref: str
    num_bytes: int = 0
    num_flops: int = 0
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Loaded:
    """A network in memory, ready to run.

    Attributes:
        call: What is timed.
        result: Computes the case once, and does whatever the first call alone has to do.
    """

    call: Callable[[], object]
    result: Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Candidate:
    """One way to compute a case in a process of its own; it and all it holds can be pickled.

    Attributes:
        name: Who computes it.
        load: Takes the folder with the weights.
        is_baseline: Speed-ups of the others are over this one.
        steps: Evaluations of the network in a call; times are per evaluation.
        imports: Names (``"package:object"``) to import before the memory in use is first looked at.
        calls: How many calls are timed in a process, after one that is not; None leaves it to
            whoever measures.
    """

    name: str
    load: Callable[[Path], Loaded]
    is_baseline: bool = False
    steps: int = 1
    imports: tuple[str, ...] = ()
    calls: int | None = None


@dataclass(frozen=True)
class SeparateWorkload:
    """A row whose candidates have processes of their own.

    Attributes:
        candidates: In the order in which they run. The others are compared with the first.
        write_weights: Writes into a folder what the candidates load; it can be pickled too.
        ref: What they are compared with, in words.
        num_flops: Floating-point operations of an evaluation; 0 if that limits nothing.
        exact: Computes from the folder what they are compared with instead of the first one's
            result; it can be pickled too.
        stay: Whether all processes are there from the first turn to the last, because there is
            memory enough for all; otherwise only that whose turn it is.
    """

    candidates: tuple[Candidate, ...]
    write_weights: Callable[[Path], object]
    ref: str
    num_flops: int = 0
    exact: Callable[[Path], Sequence[Tensor]] | None = None
    stay: bool = False


@dataclass(frozen=True)
class Program:
    """What a new process does from its start; a result is awaited from it.

    Attributes:
        name: Who does it.
        source: Python, which finds the folder of the weights in ``folder`` and leaves an array in
            ``result``.
        is_baseline: Speed-ups of the others are over this one.
    """

    name: str
    source: str
    is_baseline: bool = False


@dataclass(frozen=True)
class StartWorkload:
    """A row whose programs are timed from the start of the process to their result.

    Attributes:
        programs: In the order in which they run. The others are compared with the first.
        write_weights: Writes into a folder what the programs load.
        common: What all of them do first, in Python: it takes its own turns, and its time is taken
            off theirs.
        ref: What they are compared with, in words.
    """

    programs: tuple[Program, ...]
    write_weights: Callable[[Path], object]
    common: str
    ref: str


@dataclass(frozen=True)
class Row:
    """One case to measure.

    Attributes:
        suite: One of :data:`SUITES`.
        name: Of the case.
        case: The same for the record: dtype, shape and whatever else matters.
        build: Makes it ready to run.
        obstacle: Says what is missing to run it here, None if nothing is.
    """

    suite: str
    name: str
    case: dict[str, Any]
    build: Callable[[], Workload | SeparateWorkload | StartWorkload]
    obstacle: Callable[[], str | None] = lambda: None


def select(suite: str = "all", pattern: str = "") -> list[Row]:
    """Return the rows of a suite whose name matches.

    Args:
        suite: One of :data:`SUITES`, or "all" for :data:`QUICK_SUITES`.
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
    keys = QUICK_SUITES if suite == "all" else (suite,)
    names = [name for key in keys for name in SUITES[key]]
    modules = [importlib.import_module(f"septet.bench.{name}") for name in names]
    return [row for module in modules for row in module.rows() if wanted.search(row.name)]


@functools.cache
def has_diffusers() -> bool:
    """Tell whether diffusers is there to compare with; does not import it."""
    return importlib.util.find_spec("diffusers") is not None


def no_diffusers() -> str | None:
    """Say that diffusers is missing, as the obstacle of a row; None if it is not."""
    return None if has_diffusers() else "diffusers is not installed"


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as it stands in names: ``4x3x256x256``."""
    return "x".join(map(str, shape))
