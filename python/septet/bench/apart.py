"""Measures candidates in processes of their own, which take turns: A B C A B C ...

Where they do not fit into memory together, every turn is a visit: a process starts, loads the
weights, runs once without being timed, then some times more, and ends. Where they do, the processes
stay, and whoever's turn it is not waits.
"""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import pkgutil
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from septet.bench.records import Memory
from septet.bench.rows import Candidate, Loaded, SeparateWorkload
from septet.testing.timing import Plan, Timing, elapsed, take_turns

ResultT = TypeVar("ResultT")

#: How often each candidate is visited unless told otherwise, and how many calls are then timed.
VISITS, CALLS = 3, 2

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True, eq=False)
class Measurement:
    """What all turns of a candidate gave.

    Attributes:
        timing: Per evaluation of the network; values of the same index belong together.
        outputs: The result of the case.
        setup_seconds: Loading and the first call, which may compile or pack.
        memory: The most that the calls had in use, weights included and loading excluded; None if
            the system does not tell.
    """

    timing: Timing
    outputs: list[Tensor]
    setup_seconds: float
    memory: Memory | None


@dataclass(frozen=True, eq=False)
class Visit:
    """What one visit gave.

    Attributes:
        seconds: Per evaluation of the network, of each call.
        outputs: Arrays, since a tensor would be shared with a process that ends.
        setup_seconds: Loading and the first call.
        peak_bytes: The most memory in use, beyond what the process had after its imports: pages
            of its own and those of mapped files alike, as far as they are in memory (VmHWM).
    """

    seconds: list[float]
    outputs: list[Any]
    setup_seconds: float
    peak_bytes: int | None


@dataclass(frozen=True, eq=False)
class _Started:
    """A candidate that is loaded and has run once.

    Attributes:
        loaded: The candidate.
        outputs: Of the first run, as arrays.
        setup_seconds: Loading and the first run.
        bytes_before: Memory in use before loading; None if the system does not tell.
    """

    loaded: Loaded
    outputs: list[Any]
    setup_seconds: float
    bytes_before: int | None

    def peak_bytes(self) -> int | None:
        """Return the most memory in use since loading, beyond what there was before."""
        peak = _memory("VmHWM")
        if peak is None or self.bytes_before is None:
            return None
        return max(0, peak - self.bytes_before)


def measure(
    workload: SeparateWorkload, visits: int, threads: int, plan: Plan | None = None
) -> tuple[dict[str, Measurement], list[Tensor]]:
    """Measure every candidate in a process of its own.

    Args:
        workload: What to measure.
        visits: How often each is visited, where they do not stay.
        threads: For torch and the kernels.
        plan: How long, where they do.

    Returns:
        A measurement per candidate, in their order; and what to compare the results with.

    Raises:
        RuntimeError: If a process is killed, for example because memory ran out.
    """
    with tempfile.TemporaryDirectory(prefix="septet-bench-") as name:
        folder = Path(name)
        in_own_process("the weights", workload.write_weights, folder)
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        exact = None
        if workload.exact is not None:
            exact = in_own_process("the exact result", _arrays, workload.exact, folder, threads)
        if workload.stay:
            found = _stay(workload, folder, size, threads, plan or Plan())
        else:
            found = _visit_all(workload, folder, size, threads, visits)
    first = found[workload.candidates[0].name].outputs
    return found, first if exact is None else [torch.from_numpy(array) for array in exact]


def in_own_process(who: str, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
    """Call a function in a new process, which inherits nothing and ends afterwards.

    Raises:
        RuntimeError: If the process is killed; the message says ``who`` it was for.
    """
    with _Process(who) as process:
        return process(function, *arguments)


class _Process:
    """A process that inherits nothing and runs one function after the other, as it is asked."""

    def __init__(self, who: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._who, self._pool = who, ProcessPoolExecutor(1, mp_context=context)

    def __call__(self, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"the process for {self._who} was killed; is there enough memory?"
            ) from error

    def __enter__(self) -> _Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()


# -- visits -------------------------------------------------------------------------------------


def _visit_all(
    workload: SeparateWorkload, folder: Path, size: int, threads: int, count: int
) -> dict[str, Measurement]:
    found: dict[str, list[Visit]] = {candidate.name: [] for candidate in workload.candidates}
    for _ in range(count):
        for candidate in workload.candidates:
            done = in_own_process(candidate.name, visit, candidate, folder, threads)
            found[candidate.name].append(done)
    return {
        candidate.name: _together(found[candidate.name], candidate.steps, size)
        for candidate in workload.candidates
    }


def visit(candidate: Candidate, folder: Path, threads: int) -> Visit:
    """Load a candidate and time it; the whole life of one process.

    Args:
        candidate: Whom.
        folder: Where the weights are.
        threads: For torch and the kernels.
    """
    with torch.no_grad():
        started = _start(candidate, folder, threads)
        seconds = [
            elapsed(started.loaded.call, 1) / candidate.steps
            for _ in range(candidate.calls or CALLS)
        ]
    return Visit(seconds, started.outputs, started.setup_seconds, started.peak_bytes())


def _together(visits: list[Visit], steps: int, weights_bytes: int) -> Measurement:
    values = tuple(seconds for visit in visits for seconds in visit.seconds)
    peaks = [visit.peak_bytes for visit in visits if visit.peak_bytes is not None]
    outputs = [torch.from_numpy(output) for output in visits[0].outputs]
    memory = Memory(max(peaks), weights_bytes) if peaks else None
    setup = min(visit.setup_seconds for visit in visits)
    return Measurement(Timing(values, steps), outputs, setup, memory)


# -- processes that stay ------------------------------------------------------------------------

# A process that wakes up finds its threads asleep or on one core, and caches that others filled: a
# batch takes so many times longer than one of functions in one process.
_LONGER = 100

#: Whom this process runs.
_resident: _Started | None = None


def _stay(
    workload: SeparateWorkload, folder: Path, size: int, threads: int, plan: Plan
) -> dict[str, Measurement]:
    with ExitStack() as stack:
        processes = {
            candidate.name: stack.enter_context(_Process(candidate.name))
            for candidate in workload.candidates
        }
        outputs, setup = {}, {}
        for candidate in workload.candidates:
            outputs[candidate.name], setup[candidate.name] = processes[candidate.name](
                _move_in, candidate, folder, threads
            )
        timers = {
            name: lambda calls, process=process: process(_take_turn, calls)
            for name, process in processes.items()
        }
        longer = dataclasses.replace(plan, batch_seconds=_LONGER * plan.batch_seconds)
        timings = take_turns(timers, longer)
        peaks = {name: process(_peak) for name, process in processes.items()}
    found = {}
    for candidate in workload.candidates:
        name = candidate.name
        timing, peak = timings[name], peaks[name]
        if candidate.steps > 1:
            values = tuple(value / candidate.steps for value in timing.values)
            timing = Timing(values, timing.calls_per_value * candidate.steps)
        tensors = [torch.from_numpy(output) for output in outputs[name]]
        memory = None if peak is None else Memory(peak, size)
        found[name] = Measurement(timing, tensors, setup[name], memory)
    return found


def _move_in(candidate: Candidate, folder: Path, threads: int) -> tuple[list[Any], float]:
    global _resident
    with torch.no_grad():
        _resident = _start(candidate, folder, threads)
    gc.collect()
    gc.disable()
    return _resident.outputs, _resident.setup_seconds


def _take_turn(calls: int) -> float:
    assert _resident is not None
    with torch.no_grad():
        return elapsed(_resident.loaded.call, calls)


def _peak() -> int | None:
    assert _resident is not None
    return _resident.peak_bytes()


# -- in the process -----------------------------------------------------------------------------


def _start(candidate: Candidate, folder: Path, threads: int) -> _Started:
    torch.set_num_threads(threads)
    for name in candidate.imports:
        pkgutil.resolve_name(name)
    before = _memory("VmRSS")
    begin = time.perf_counter()
    loaded = candidate.load(folder)
    is_reset = _reset_peak()
    outputs = [output.numpy() for output in loaded.result()]
    setup = time.perf_counter() - begin
    return _Started(loaded, outputs, setup, before if is_reset else None)


def _arrays(compute: Callable[[Path], Sequence[Tensor]], folder: Path, threads: int) -> list[Any]:
    torch.set_num_threads(threads)
    with torch.no_grad():
        return [output.numpy() for output in compute(folder)]


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
