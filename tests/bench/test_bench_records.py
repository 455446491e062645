"""Records: complete, checked, and no speed-up without its accuracy."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import pytest

from septet.bench.machine import facts
from septet.bench.records import (
    FIELDS,
    LATENCY_FIELDS,
    Accuracy,
    Latency,
    Memory,
    Record,
    Roofline,
    Speedup,
    merge,
    read_json_lines,
    validate,
    write_json_lines,
)
from septet.testing.timing import Timing

SLOW = Timing((3.0, 4.0, 5.0))
QUICK = Timing((1.0, 2.0, 1.0), calls_per_value=7)
RUN = facts(2, "septet bench --suite ops")
ACCURACY = Accuracy(1e-6, 2e-7, "float64")


def _record(**changes):
    values = {
        "run": RUN,
        "suite": "ops",
        "case": {"name": "a", "dtype": "float32"},
        "implementation": "septet",
        "latency": Latency.of(QUICK),
        "calls_per_round": QUICK.calls_per_value,
        "accuracy": ACCURACY,
        "speedups": (Speedup.of("eager", SLOW, QUICK, ACCURACY),),
        "roofline": Roofline("copy", 4e9, 4e9, 16e9),
        "memory": Memory(3_000, 1_000),
    }
    return Record(**values | changes)


def test_a_record_has_every_field():
    entry = _record().to_json()
    assert set(entry) == set(FIELDS)
    assert tuple(entry["latency_s"]) == LATENCY_FIELDS
    assert entry["latency_s"]["p50"] == 1.0
    assert entry["latency_s"]["count"] == entry["rounds"] == 3
    assert entry["calls_per_round"] == 7
    assert entry["memory"] == {"peak_bytes": 3_000, "weights_bytes": 1_000}
    assert entry["command"] == "septet bench --suite ops"
    assert entry["host"]["cores"] >= 1
    assert entry["host"]["isa"]
    assert entry["threads"] == 2
    assert entry["roofline"]["percent"] == 25
    assert entry["accuracy"] == {"max_abs": 1e-6, "max_rel": 2e-7, "ref": "float64"}
    assert entry["ratios"]["eager"] == {"value": 4.0, "p10": pytest.approx(2.2), "p90": 4.6}


def test_a_speedup_is_the_ratio_of_medians():
    assert Speedup.of("eager", SLOW, QUICK, ACCURACY).value == 4


@pytest.mark.parametrize("accuracy", [None, 1e-7, {"max_abs": 0.0, "max_rel": 0.0, "ref": "x"}])
def test_no_speedup_without_accuracy(accuracy):
    with pytest.raises(ValueError, match="needs an accuracy"):
        Speedup.of("eager", SLOW, QUICK, accuracy)
    with pytest.raises(TypeError):
        Speedup("eager", 4.0, 3.0, 5.0)


def test_no_record_with_a_speedup_of_another_accuracy():
    speedups = (Speedup.of("eager", SLOW, QUICK, ACCURACY),)
    for accuracy in (None, Accuracy(1.0, 1.0, "float64")):
        with pytest.raises(ValueError, match="another accuracy"):
            _record(accuracy=accuracy, speedups=speedups)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e-9, None, "small", True])
def test_accuracy_is_a_number(value):
    for name in ("max_abs", "max_rel"):
        with pytest.raises(ValueError, match=name):
            dataclasses.replace(ACCURACY, **{name: value})


def test_accuracy_names_its_reference():
    with pytest.raises(ValueError, match="ref"):
        Accuracy(0.0, 0.0, "")


@pytest.mark.parametrize("value", [0.0, -2.0, math.nan, math.inf])
def test_senseless_ratios(value):
    with pytest.raises(ValueError, match="positive and finite"):
        Speedup("eager", value, 1.0, 1.0, ACCURACY)


def test_json_of_a_ratio_without_accuracy_is_refused():
    entry = _record().to_json()
    entry["accuracy"] = None
    with pytest.raises(ValueError, match="needs an accuracy"):
        validate(entry)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_required(name):
    entry = _record().to_json()
    del entry[name]
    with pytest.raises(ValueError, match=name):
        validate(entry)


@pytest.mark.parametrize(
    "path",
    [
        ("host", "isa"),
        ("latency_s", "p99"),
        ("memory", "peak_bytes"),
        ("roofline", "limit"),
        ("accuracy", "max_rel"),
        ("ratios", "eager", "p10"),
    ],
)
def test_every_inner_field_is_required(path):
    entry = copy.deepcopy(_record().to_json())
    inner = entry
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(ValueError, match=path[-1]):
        validate(entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other/1"}, "schema"),
        ({"more": 1}, "unknown more"),
        ({"memory": {"peak_bytes": -1, "weights_bytes": 1}}, "peak_bytes"),
        ({"memory": {"peak_bytes": 1, "weights_bytes": 1.5}}, "weights_bytes"),
        ({"latency_s": dict.fromkeys(LATENCY_FIELDS, math.nan)}, "finite"),
    ],
)
def test_senseless_json(change, message):
    with pytest.raises(ValueError, match=message):
        validate(_record().to_json() | change)


def test_a_baseline_needs_neither_accuracy_nor_limit():
    entry = _record(accuracy=None, speedups=(), roofline=None, memory=None).to_json()
    assert entry["accuracy"] is None
    assert entry["roofline"] is None
    assert entry["memory"] is None
    assert entry["ratios"] == {}


def test_json_lines(tmp_path):
    path = tmp_path / "new" / "records.jsonl"
    write_json_lines([_record(), _record(implementation="eager")], path)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["implementation"] for entry in entries] == ["septet", "eager"]
    for entry in entries:
        validate(entry)


@pytest.mark.parametrize(
    "changes", [{}, {"accuracy": None, "speedups": (), "roofline": None, "memory": None}]
)
def test_reading_gives_what_was_written(tmp_path, changes):
    path = tmp_path / "records.jsonl"
    written = [_record(**changes), _record(implementation="eager", **changes)]
    write_json_lines(written, path)
    assert read_json_lines(path) == written


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ("[]", "line 2"),
        ('{"schema": "septet.bench/1"}', "lacks accuracy"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line, message):
    path = tmp_path / "records.jsonl"
    write_json_lines([_record()], path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        read_json_lines(path)
    assert str(path) in str(caught.value)


def test_of_a_case_measured_again_the_last_run_counts():
    def run(number, *names, suite="ops"):
        shared = {**RUN, "run_id": str(number)}
        return [
            _record(run=shared, suite=suite, case={"name": name}, implementation=who)
            for name in names
            for who in ("eager", "septet")
        ]

    merged = merge(
        [run(1, "a", "b"), run(2, "c", suite="large"), run(3, "a"), run(4, "a", suite="models")]
    )
    found = [(r.case["name"], r.run["run_id"], r.implementation) for r in merged[::2]]
    assert found == [
        ("a", "3", "eager"),
        ("b", "1", "eager"),
        ("c", "2", "eager"),
        ("a", "4", "eager"),
    ]
    assert len(merged) == 8
