"""Measures candidates that do not fit into memory together: each in a process of its own, in turn.

Every candidate is visited several times, A B C A B C ...: a process starts, loads the weights, runs
once without being timed, then some times more, and ends.
"""

from __future__ import annotations

import multiprocessing
import pkgutil
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from septet.bench.records import Memory
from septet.bench.rows import Candidate, SeparateWorkload
from septet.testing.timing import Timing

ResultT = TypeVar("ResultT")

#: How often each candidate is visited unless told otherwise, and how many calls are then timed.
VISITS, CALLS = 3, 2

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True, eq=False)
class Measurement:
    """What all visits of a candidate gave.

    Attributes:
        timing: Per evaluation of the network; values of the same index belong together.
        outputs: The result of the case.
        memory: The most that the calls had in use, weights included and loading excluded; None if
            the system does not tell.
    """

    timing: Timing
    outputs: list[Tensor]
    memory: Memory | None


@dataclass(frozen=True, eq=False)
class Visit:
    """What one visit gave.

    Attributes:
        seconds: Per evaluation of the network, of each call.
        outputs: Arrays, since a tensor would be shared with a process that ends.
        peak_bytes: The most memory in use, beyond what the process had after its imports: pages
            of its own and those of mapped files alike, as far as they are in memory (VmHWM).
    """

    seconds: list[float]
    outputs: list[Any]
    peak_bytes: int | None


def measure(workload: SeparateWorkload, visits: int, threads: int) -> dict[str, Measurement]:
    """Visit every candidate, one process at a time.

    Args:
        workload: What to measure.
        visits: How often.
        threads: For torch and the kernels.

    Returns:
        A measurement per candidate, in their order.

    Raises:
        RuntimeError: If a process is killed, for example because memory ran out.
    """
    found: dict[str, list[Visit]] = {candidate.name: [] for candidate in workload.candidates}
    with tempfile.TemporaryDirectory(prefix="septet-bench-") as name:
        folder = Path(name)
        in_own_process("the weights", workload.write_weights, folder)
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        for _ in range(visits):
            for candidate in workload.candidates:
                done = in_own_process(candidate.name, visit, candidate, folder, threads)
                found[candidate.name].append(done)
    return {
        candidate.name: _together(found[candidate.name], candidate.steps, size)
        for candidate in workload.candidates
    }


def in_own_process(who: str, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
    """Call a function in a new process, which inherits nothing and ends afterwards.

    Raises:
        RuntimeError: If the process is killed; the message says ``who`` it was for.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        raise RuntimeError(f"the process for {who} was killed; is there enough memory?") from error


def visit(candidate: Candidate, folder: Path, threads: int) -> Visit:
    """Load a candidate and time it; the whole life of one process.

    Args:
        candidate: Whom.
        folder: Where the weights are.
        threads: For torch and the kernels.
    """
    torch.set_num_threads(threads)
    for name in candidate.imports:
        pkgutil.resolve_name(name)
    before = _memory("VmRSS")
    with torch.no_grad():
        loaded = candidate.load(folder)
        is_reset = _reset_peak()
        outputs = [output.numpy() for output in loaded.result()]
        seconds = []
        for _ in range(candidate.calls or CALLS):
            started = time.perf_counter()
            loaded.call()
            seconds.append((time.perf_counter() - started) / candidate.steps)
    peak = _memory("VmHWM")
    is_known = is_reset and before is not None and peak is not None
    return Visit(seconds, outputs, max(0, peak - before) if is_known else None)  # type: ignore[operator]


def _together(visits: list[Visit], steps: int, weights_bytes: int) -> Measurement:
    values = tuple(seconds for visit in visits for seconds in visit.seconds)
    peaks = [visit.peak_bytes for visit in visits if visit.peak_bytes is not None]
    outputs = [torch.from_numpy(output) for output in visits[0].outputs]
    memory = Memory(max(peaks), weights_bytes) if peaks else None
    return Measurement(Timing(values, steps), outputs, memory)


def _memory(name: str) -> int | None:
    """Return bytes of this process's memory: VmRSS, in use now, or VmHWM, at most so far.

    ``getrusage`` would also count the process from which this one was started.
    """
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


def _reset_peak() -> bool:
    """Let VmHWM begin anew (proc(5)); tell whether the system allows it."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True
