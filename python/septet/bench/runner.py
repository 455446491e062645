"""Measures rows: how exact, then everybody in turn, and the machine itself among them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from septet.bench import apart, machine, starts
from septet.bench.records import Accuracy, Latency, Memory, Record, Roofline, Speedup
from septet.bench.rows import (
    Implementation,
    Row,
    SeparateWorkload,
    StartWorkload,
    Workload,
)
from septet.testing.timing import Plan, Timing, interleave
from septet.testing.tolerances import relative_error

#: How long the probe of multiply-adds runs at most.
_PROBE_SECONDS = 0.25
#: The copy takes its turn under this name; an implementation is never named by the empty string.
_COPY = ""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        plan: How long, see :class:`septet.testing.timing.Plan`.
        threads: For torch, the kernels and the probe.
        command: The command line that asks for it, for the records.
    """

    plan: Plan = field(default_factory=Plan)
    threads: int = field(default_factory=torch.get_num_threads)
    command: str = ""

    @classmethod
    def of(
        cls, seconds: float, rounds: int | None, threads: int | None, command: str = ""
    ) -> Settings:
        """Make settings from what a user gives; None leaves the default."""
        plan = Plan(seconds=seconds, rounds=rounds)
        return cls(plan, threads or torch.get_num_threads(), command)


@dataclass(frozen=True, eq=False)
class _Measured:
    """One implementation; the timings of all of a case belong together."""

    name: str
    is_baseline: bool
    timing: Timing
    accuracy: Accuracy | None
    roofline: Roofline | None
    memory: Memory | None = None
    setup_seconds: float | None = None


def run(
    rows: Iterable[Row],
    settings: Settings | None = None,
    on_row: Callable[[list[Record]], None] = lambda records: None,
) -> list[Record]:
    """Measure rows, one after the other.

    Args:
        rows: What to measure.
        settings: How; the defaults if not given.
        on_row: Gets the records of each row as soon as it is done.
    """
    settings = settings or Settings()
    facts = machine.facts(settings.threads, settings.command)
    records: list[Record] = []
    with _threads(settings.threads), torch.no_grad():
        for row in rows:
            done = _measure(row, settings, facts)
            on_row(done)
            records += done
    return records


def _measure(row: Row, settings: Settings, facts: dict[str, Any]) -> list[Record]:
    workload = row.build()
    if isinstance(workload, SeparateWorkload):
        measured = _measure_apart(workload, settings)
    elif isinstance(workload, StartWorkload):
        measured = _measure_starts(workload, settings)
    else:
        measured = _measure_together(workload, settings)
    baselines = [m for m in measured if m.is_baseline]
    records = []
    for one in measured:
        accuracy, timing = one.accuracy, one.timing
        speedups = () if accuracy is None or one.is_baseline else tuple(
            Speedup.of(base.name, base.timing, timing, accuracy) for base in baselines
        )  # fmt: skip
        case, latency = {"name": row.name, **row.case}, Latency.of(timing)
        records.append(
            Record(
                facts, row.suite, case, one.name, latency, timing.calls_per_value, accuracy,
                speedups, one.roofline, one.memory, one.setup_seconds,
            )
        )  # fmt: skip
    return records


def _measure_together(workload: Workload, settings: Settings) -> list[_Measured]:
    accuracies = _accuracies(workload)
    calls: dict[str, Callable[[], object]] = {i.name: i.call for i in workload.implementations}
    if workload.num_bytes:
        calls[_COPY] = _copy(workload.num_bytes, workload.device)
    timings = interleave(calls, settings.plan)
    copy = timings.get(_COPY)
    return [
        _Measured(
            one.name,
            one.is_baseline,
            timing := timings[one.name],
            accuracies[one.name],
            _copied(workload.num_bytes, timing, copy)
            if copy
            else _multiplied(workload, timing)
            if workload.device == "cuda"
            else _computed(workload.num_flops, timing, settings),
        )
        for one in workload.implementations
    ]


def _measure_apart(workload: SeparateWorkload, settings: Settings) -> list[_Measured]:
    found, exact = apart.measure(
        workload, settings.plan.rounds or apart.VISITS, settings.threads, settings.plan
    )
    measured = []
    for candidate in workload.candidates:
        one = found[candidate.name]
        accuracy = _error(one.outputs, exact, workload.ref)
        roofline = _computed(workload.num_flops, one.timing, settings)
        measured.append(
            _Measured(
                candidate.name, candidate.is_baseline, one.timing, accuracy, roofline, one.memory,
                one.setup_seconds,
            )
        )  # fmt: skip
    return measured


def _measure_starts(workload: StartWorkload, settings: Settings) -> list[_Measured]:
    turns = settings.plan.rounds or starts.TURNS
    found, common = starts.measure(workload, turns, settings.threads)
    first = next(iter(found.values())).outputs
    measured = [_Measured(workload.common, False, common.timing, None, None)]
    for program in workload.programs:
        one = found[program.name]
        accuracy = _error(one.outputs, first, workload.ref)
        measured.append(_Measured(program.name, program.is_baseline, one.timing, accuracy, None))
    return measured


def _accuracies(workload: Workload) -> dict[str, Accuracy | None]:
    # implementations share most exact results, and those are slow
    exact: dict[object, Sequence[Tensor]] = {}
    found = {}
    for implementation in workload.implementations:
        compute = implementation.exact
        if compute is not None and compute not in exact:
            exact[compute] = compute()
        found[implementation.name] = _accuracy(
            implementation, exact[compute] if compute else None, workload.ref
        )
    return found


def _accuracy(
    implementation: Implementation, exact: Sequence[Tensor] | None, ref: str
) -> Accuracy | None:
    return None if exact is None else _error(implementation.result(), exact, ref)


def _error(actual: Sequence[Tensor], exact: Sequence[Tensor], ref: str) -> Accuracy:
    pairs = list(zip(actual, exact, strict=True))
    absolute = max(float((a.double() - e.double()).abs().max()) for a, e in pairs)
    return Accuracy(absolute, max(relative_error(a, e) for a, e in pairs), ref)


def _copy(num_bytes: int, device: str) -> Callable[[], object]:
    """Return torch's copy between two buffers that have so many bytes together."""
    source = torch.zeros(max(1, num_bytes // 2 // torch.float32.itemsize), device=device)
    return machine.waiting(functools.partial(torch.empty_like(source).copy_, source), device)


def _copied(amount: int, timing: Timing, copy: Timing) -> Roofline:
    return Roofline("copy", amount, amount / timing.median, amount / copy.median)


def _computed(amount: int, timing: Timing, settings: Settings) -> Roofline | None:
    if not amount:
        return None
    seconds = min(_PROBE_SECONDS, max(0.01, settings.plan.seconds))
    limit = machine.fma_peak(settings.threads, seconds)
    return Roofline("fma", amount, amount / timing.median, limit)


def _multiplied(workload: Workload, timing: Timing) -> Roofline | None:
    if not workload.num_flops:
        return None
    limit = machine.matmul_peak(workload.device, workload.dtype)
    return Roofline("matmul", workload.num_flops, workload.num_flops / timing.median, limit)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
