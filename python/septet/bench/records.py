"""The result of a measurement, one JSON object per implementation and case.

A speed-up cannot be made, written or read without the accuracy of what was sped up:
:class:`Speedup` demands it, and nothing else holds a ratio.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from septet.testing.timing import Timing, percentile, round_ratios

SCHEMA = "septet.bench/3"
#: What the version before it lacks: nothing of that was measured.
_SINCE_2: dict[str, Any] = {"peers": {}, "setup_s": None}

#: Names of the fields that all records of a run share.
RUN_FIELDS = (
    "run_id", "utc", "command", "host", "torch", "diffusers", "peers", "native", "threads", "load",
)  # fmt: skip
#: Names of all fields of a record; a reader may rely on every one being there.
FIELDS = (
    "schema", *RUN_FIELDS, "suite", "case", "implementation", "rounds", "calls_per_round",
    "latency_s", "setup_s", "memory", "roofline", "accuracy", "ratios",
)  # fmt: skip
HOST_FIELDS = ("cpu", "cores", "isa", "ram_gb")


@dataclass(frozen=True)
class Accuracy:
    """How far a result is from the exact one.

    Attributes:
        max_abs: Largest absolute error.
        max_rel: The same, relative to the largest value of the exact result.
        ref: What the exact result is.

    Raises:
        ValueError: If an error is no finite number, or the reference has no name.
    """

    max_abs: float
    max_rel: float
    ref: str

    def __post_init__(self) -> None:
        for name in ("max_abs", "max_rel"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"accuracy: {name} must be a number, got {value!r}")
            if not 0 <= value < math.inf:
                raise ValueError(f"accuracy: {name} must be finite and not negative, got {value}")
        if not self.ref:
            raise ValueError("accuracy: ref must name the exact result")


@dataclass(frozen=True)
class Speedup:
    """How many times faster than a baseline, at which accuracy.

    Attributes:
        over: Name of the baseline.
        value: Ratio of the medians.
        p10, p90: Percentiles of the ratio over the rounds.
        accuracy: Of the faster (or slower) result, not of the baseline.

    Raises:
        ValueError: If the accuracy is missing or the ratio makes no sense.
    """

    over: str
    value: float
    p10: float
    p90: float
    accuracy: Accuracy

    def __post_init__(self) -> None:
        if not isinstance(self.accuracy, Accuracy):
            raise ValueError(f"a speed-up over {self.over} needs an accuracy")
        if not all(0 < v < math.inf for v in (self.value, self.p10, self.p90)):
            raise ValueError(f"a speed-up over {self.over} must be positive and finite")

    @classmethod
    def of(cls, over: str, baseline: Timing, candidate: Timing, accuracy: Accuracy) -> Speedup:
        """Compare two timings of the same rounds."""
        ratios = round_ratios(baseline, candidate)
        value = baseline.median / candidate.median
        return cls(over, value, percentile(ratios, 10), percentile(ratios, 90), accuracy)


@dataclass(frozen=True)
class Roofline:
    """What was achieved of what the machine can do.

    Attributes:
        kind: "copy" (``unit`` bytes, read and written), "fma" or "matmul" (``unit`` flop).
        amount: Bytes that the call's tensors have, or operations of the call.
        achieved: Per second.
        limit: What the machine achieves with as many threads: for a copy, torch's on buffers of as
            many bytes, timed in turn with the call; for "fma", a probe; for "matmul", torch's
            product of large matrices on the device.
    """

    kind: str
    amount: float
    achieved: float
    limit: float

    @property
    def percent(self) -> float:
        """The share of the limit."""
        return 100 * self.achieved / self.limit


@dataclass(frozen=True)
class Latency:
    """Seconds per call, over the rounds; the fields of a record's ``latency_s``.

    Attributes:
        count: Number of rounds.
        mean, stdev, min: Over the rounds.
        p10, p50, p90, p95, p99: Percentiles.

    Raises:
        ValueError: If one is no finite number, or negative.
    """

    count: int
    mean: float
    stdev: float
    min: float
    p10: float
    p50: float
    p90: float
    p95: float
    p99: float

    def __post_init__(self) -> None:
        if not all(0 <= value < math.inf for value in asdict(self).values()):
            raise ValueError("latency_s must hold finite numbers that are not negative")

    @classmethod
    def of(cls, timing: Timing) -> Latency:
        """Summarise a timing."""
        values = timing.values
        percentiles = {f"p{percent}": timing.percentile(percent) for percent in _PERCENTILES}
        return cls(len(values), timing.mean, timing.stdev, min(values), **percentiles)

    @property
    def spread(self) -> float:
        """Half the distance from the 10th to the 90th percentile, relative to the median."""
        return (self.p90 - self.p10) / (2 * self.p50)


_PERCENTILES = (10, 50, 90, 95, 99)
LATENCY_FIELDS = tuple(Latency.__dataclass_fields__)


@dataclass(frozen=True)
class Memory:
    """How much memory the calls need.

    Attributes:
        peak_bytes: The most that was in use, weights included, beyond what the libraries took.
        weights_bytes: Of the file of weights; 0 if there is none.

    Raises:
        ValueError: If one is no number of bytes.
    """

    peak_bytes: int
    weights_bytes: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"memory: {name} must be a number of bytes, got {value!r}")


@dataclass(frozen=True)
class Record:
    """One implementation of one case, measured.

    Attributes:
        run: The fields that all records of a run share, see :func:`septet.bench.machine.facts`.
        suite: One of :data:`septet.bench.rows.SUITES`.
        case: What ran: name, dtype, shape and the like.
        implementation: Who ran it.
        latency: How long it took.
        calls_per_round: Each round's value is the mean over so many calls.
        accuracy: None only for what cannot be compared with anything; no ratios then.
        speedups: Over every baseline of the case.
        roofline: None if unknown.
        memory: None if not measured: where all implementations share a process.
        setup_seconds: Loading and the first call, with what it compiles or packs; None as above.
    """

    run: Mapping[str, Any]
    suite: str
    case: Mapping[str, Any]
    implementation: str
    latency: Latency
    calls_per_round: int = 1
    accuracy: Accuracy | None = None
    speedups: tuple[Speedup, ...] = field(default=())
    roofline: Roofline | None = None
    memory: Memory | None = None
    setup_seconds: float | None = None

    def __post_init__(self) -> None:
        if any(speedup.accuracy != self.accuracy for speedup in self.speedups):
            raise ValueError(f"{self.implementation}: its speed-ups have another accuracy than it")

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values, checked."""
        roofline = self.roofline
        entry: dict[str, Any] = {
            "schema": SCHEMA,
            **self.run,
            "suite": self.suite,
            "case": dict(self.case),
            "implementation": self.implementation,
            "rounds": self.latency.count,
            "calls_per_round": self.calls_per_round,
            "latency_s": asdict(self.latency),
            "setup_s": self.setup_seconds,
            "memory": self.memory and asdict(self.memory),
            "roofline": roofline and {**asdict(roofline), "percent": roofline.percent},
            "accuracy": self.accuracy and asdict(self.accuracy),
            "ratios": {
                s.over: {"value": s.value, "p10": s.p10, "p90": s.p90} for s in self.speedups
            },
        }
        validate(entry)
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Record:
        """Make the record of which :meth:`to_json` returned an object.

        Raises:
            ValueError: See :func:`validate`.
        """
        validate(entry)
        accuracy, roofline, memory = entry["accuracy"], entry["roofline"], entry["memory"]
        accuracy = accuracy and Accuracy(**accuracy)
        return cls(
            {name: entry[name] for name in RUN_FIELDS},
            entry["suite"],
            entry["case"],
            entry["implementation"],
            Latency(**entry["latency_s"]),
            entry["calls_per_round"],
            accuracy,
            tuple(Speedup(over, **r, accuracy=accuracy) for over, r in entry["ratios"].items()),
            roofline and Roofline(**{k: roofline[k] for k in _ROOFLINE_FIELDS[:-1]}),
            memory and Memory(**memory),
            entry["setup_s"],
        )


_ROOFLINE_FIELDS = (*Roofline.__dataclass_fields__, "percent")


def validate(entry: Mapping[str, Any]) -> None:
    """Check that a JSON object is a record.

    Raises:
        ValueError: If a field is missing, unknown or senseless, or there is a ratio without an
            accuracy.
    """
    _same_keys("record", entry, FIELDS)
    if entry["schema"] != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA!r}, got {entry['schema']!r}")
    _same_keys("host", entry["host"], HOST_FIELDS)
    _same_keys("latency_s", entry["latency_s"], LATENCY_FIELDS)
    Latency(**entry["latency_s"])
    if entry["roofline"] is not None:
        _same_keys("roofline", entry["roofline"], _ROOFLINE_FIELDS)
    if entry["memory"] is not None:
        _same_keys("memory", entry["memory"], Memory.__dataclass_fields__)
        Memory(**entry["memory"])
    setup = entry["setup_s"]
    if setup is not None and not 0 <= setup < math.inf:
        raise ValueError(f"setup_s must be finite and not negative, got {setup!r}")
    accuracy = entry["accuracy"]
    if accuracy is not None:
        _same_keys("accuracy", accuracy, ("max_abs", "max_rel", "ref"))
        accuracy = Accuracy(**accuracy)
    for over, ratio in entry["ratios"].items():
        _same_keys(f"ratios.{over}", ratio, ("value", "p10", "p90"))
        Speedup(over, **ratio, accuracy=accuracy)


def _same_keys(name: str, entry: Mapping[str, Any], keys: Iterable[str]) -> None:
    expected = set(keys)
    for problem, found in (
        ("lacks", expected - set(entry)),
        ("has unknown", set(entry) - expected),
    ):
        if found:
            raise ValueError(f"{name} {problem} {', '.join(sorted(found))}")


def write_json_lines(records: Iterable[Record], path: Path) -> None:
    """Write one JSON object per line; the file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("", encoding="utf-8")
    append_json_lines(records, path)


def append_json_lines(records: Iterable[Record], path: Path) -> None:
    """Add one JSON object per line to a file, at once: what stands there survives a crash."""
    lines = [json.dumps(record.to_json(), allow_nan=False) for record in records]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


def read_json_lines(path: Path) -> list[Record]:
    """Read what :func:`write_json_lines` wrote.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a line is no record; the message names it.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            records.append(Record.from_json(_upgraded(json.loads(line))))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a record: {error}") from error
    return records


def _upgraded(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(entry, dict) and entry.get("schema") == "septet.bench/2":
        return {**entry, **_SINCE_2, "schema": SCHEMA}
    return entry


def merge(runs: Iterable[Sequence[Record]]) -> list[Record]:
    """Put the records of several runs together; of a case measured again, the last run counts."""
    cases: dict[object, list[Record]] = {}
    for run in runs:
        fresh: dict[object, list[Record]] = {}
        for record in run:
            fresh.setdefault((record.suite, record.case["name"]), []).append(record)
        cases |= fresh
    return [record for records in cases.values() for record in records]
