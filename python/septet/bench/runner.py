"""Measures rows: accuracy first, then everybody in turn, and the machine itself among them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from septet.bench import machine
from septet.bench.records import Accuracy, Latency, Record, Roofline, Speedup
from septet.bench.rows import Implementation, Row, Workload
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
    accuracies = _accuracies(workload)
    calls: dict[str, Callable[[], object]] = {i.name: i.call for i in workload.implementations}
    if workload.num_bytes:
        calls[_COPY] = _copy(workload.num_bytes)
    timings = interleave(calls, settings.plan)
    baselines = [i.name for i in workload.implementations if i.is_baseline]
    records = []
    for implementation in workload.implementations:
        name = implementation.name
        accuracy = accuracies[name]
        speedups = () if accuracy is None or implementation.is_baseline else tuple(
            Speedup.of(over, timings[over], timings[name], accuracy) for over in baselines
        )  # fmt: skip
        roofline = _roofline(workload, timings[name], timings.get(_COPY), settings)
        case = {"name": row.name, **row.case}
        timing = timings[name]
        latency, batch = Latency.of(timing), timing.calls_per_value
        records.append(
            Record(facts, row.suite, case, name, latency, batch, accuracy, speedups, roofline)
        )
    return records


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
    if exact is None:
        return None
    pairs = list(zip(implementation.result(), exact, strict=True))
    absolute = max(float((a.double() - e.double()).abs().max()) for a, e in pairs)
    return Accuracy(absolute, max(relative_error(a, e) for a, e in pairs), ref)


def _copy(num_bytes: int) -> Callable[[], object]:
    """Return torch's copy between two buffers that have so many bytes together."""
    source = torch.zeros(max(1, num_bytes // 2 // torch.float32.itemsize))
    return functools.partial(torch.empty_like(source).copy_, source)


def _roofline(
    workload: Workload, timing: Timing, copy: Timing | None, settings: Settings
) -> Roofline | None:
    if copy is not None:
        amount = workload.num_bytes
        return Roofline("copy", amount, amount / timing.median, amount / copy.median)
    if workload.num_flops:
        amount = workload.num_flops
        seconds = min(_PROBE_SECONDS, max(0.01, settings.plan.seconds))
        limit = machine.fma_peak(settings.threads, seconds)
        return Roofline("fma", amount, amount / timing.median, limit)
    return None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
