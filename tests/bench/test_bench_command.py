"""``septet bench`` in process, its table, its page and its picture."""

from __future__ import annotations

import dataclasses
import json
from xml.etree import ElementTree

import pytest

from septet.bench import plot, records, report, rows, scheduler_rows
from septet.bench.machine import facts
from septet.cli.main import main
from septet.testing.timing import Timing

CASES = r"ddim\.step/1x3x32x32|philox_normal/per_sample"


@pytest.fixture(autouse=True)
def _no_diffusers(monkeypatch):
    # importing it takes longer than everything here; test_bench_rows.py measures against it
    monkeypatch.setattr(scheduler_rows, "has_diffusers", lambda: False)


def test_everything_is_written(tmp_path, capsys):
    files = {name: tmp_path / "new" / f"b.{name}" for name in ("jsonl", "svg", "md")}
    command = ["bench", "--suite", "ops", "--filter", CASES, "--repeats", "2", "--threads", "1"]
    outputs = ["--json", str(files["jsonl"]), "--plot", str(files["svg"])]
    assert main([*command, *outputs, "--markdown", str(files["md"])]) == 0

    table = capsys.readouterr().out
    entries = [json.loads(line) for line in files["jsonl"].read_text().splitlines()]
    assert len(entries) == 4
    page = files["md"].read_text()
    for entry in entries:
        records.validate(entry)
        assert entry["rounds"] == 2
        assert entry["threads"] == 1
        for text in (table, page):
            assert entry["case"]["name"] in text
        for ratio in entry["ratios"].values():
            assert f"{ratio['value']:.2f}x" in page
            assert f"{entry['accuracy']['max_rel']:.1e}" in page
    assert entries[0]["host"]["cpu"] in page
    assert "(b.svg)" in page
    assert ElementTree.parse(files["svg"]).getroot().tag.endswith("svg")


def test_finished_rows_survive_an_interruption(tmp_path, monkeypatch):
    path = tmp_path / "new" / "b.jsonl"
    chosen = rows.select("ops", CASES)

    def stop():
        raise KeyboardInterrupt

    chosen.insert(1, dataclasses.replace(chosen[0], build=stop))
    monkeypatch.setattr(rows, "select", lambda suite, pattern: chosen)
    assert main(["bench", "--suite", "ops", "--repeats", "1", "--json", str(path)]) == 130
    found = records.read_json_lines(path)
    assert found
    assert {record.case["name"] for record in found} == {chosen[0].name}


def test_records_of_the_version_before_are_read(tmp_path):
    path = tmp_path / "b.jsonl"
    records.write_json_lines([_record()], path)
    entry = json.loads(path.read_text())
    del entry["peers"], entry["setup_s"]
    path.write_text(json.dumps(entry | {"schema": "septet.bench/2"}))
    (record,) = records.read_json_lines(path)
    assert (record.run["peers"], record.setup_seconds) == ({}, None)
    assert record.latency == _record().latency


def test_peers_that_are_not_installed_are_named(tmp_path):
    path = tmp_path / "page.md"
    run = facts(1) | {"peers": {"openvino": None, "other": "1.2"}}
    report.write_markdown([_record(run=run, setup_seconds=12.3)], path)
    assert "openvino not installed, other 1.2, compiler" in path.read_text()
    assert "| set-up |" in path.read_text()
    assert "| 12.3 s |" in path.read_text()


def test_list(capsys):
    assert main(["bench", "--list", "--suite", "ops", "--filter", "pndm"]) == 0
    assert capsys.readouterr().out.split() == ["pndm.step/1x3x32x32", "pndm.step/4x3x256x256"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "nothing like this"], "no case"),
        (["--filter", "("], "regular expression"),
        (["--plot", "picture.png"], "must end in .svg"),
        (["--suite", "everything"], "invalid choice"),
        (["--threads", "0"], "1 to 1024"),
        (["--repeats", "0"], "1 to 1024"),
        (["--seconds", "0"], "positive"),
        (["--seconds", "nan"], "positive"),
        (["--seconds", "1", "--repeats", "2"], "not allowed"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    assert main(["bench", "--suite", "ops", *arguments]) == 2
    assert message in capsys.readouterr().err


def _record(value=4.0, name="a<b & 'c'", timing=Timing((1e-3,)), **changes):  # noqa: B008
    accuracy = records.Accuracy(1e-6, 2e-7, "float64")
    speedup = records.Speedup("eager", value, value, value, accuracy)
    values = {
        "run": facts(1, "septet bench --filter 'a|b'"),
        "suite": "ops",
        "case": {"name": name},
        "implementation": "septet",
        "latency": records.Latency.of(timing),
        "accuracy": accuracy,
        "speedups": (speedup,),
    }
    return records.Record(**values | changes)


def _texts(path):
    return ["".join(element.itertext()) for element in ElementTree.parse(path).iter()]


def test_svg_is_well_formed_and_shows_accuracy(tmp_path):
    path = tmp_path / "plot.svg"
    plot.write_svg([_record(), _record(0.25, "x" * 200)], path)
    texts = _texts(path)
    assert "a<b & 'c', septet" in texts
    assert "4.00x eager [2e-07]" in texts
    bars = [e for e in ElementTree.parse(path).iter() if e.get("fill") == "#4878a8"]
    widths = [float(bar.get("width")) for bar in bars]
    assert widths[0] == pytest.approx(16 * widths[1], rel=0.01)


def test_svg_of_nothing(tmp_path):
    path = tmp_path / "plot.svg"
    plot.write_svg([], path)
    assert len(_texts(path)) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.567e-6, "4.57 µs"), (3e-8, "30 ns"), (0.0, "0 ns")],
)
def test_times_have_fitting_units(seconds, text):
    assert report.seconds_text(seconds) == text


def test_restless_timings_are_pointed_out(tmp_path):
    calm, restless = Timing((1.0, 1.0, 1.1)), Timing((1.0, 1.0, 9.0))
    assert report.unrest([_record(timing=calm)]) == ""
    found = [_record(timing=calm), _record(timing=restless)]
    assert report.unrest(found).startswith("1 of 2 medians")
    path = tmp_path / "page.md"
    report.write_markdown(found, path)
    assert report.unrest(found) in path.read_text()


def test_a_page_without_a_picture(tmp_path):
    path = tmp_path / "page.md"
    report.write_markdown([_record()], path)
    assert "![" not in path.read_text()
    assert "| 2.0e-07 | 4.00x eager |" in path.read_text()
    assert "peak memory |" not in path.read_text()


def test_pages_and_pictures_of_several_runs(tmp_path, capsys):
    memory = records.Memory(3_600_000_000, 3_000_000_000)
    run = facts(2, "septet bench --suite large")
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    records.write_json_lines([_record()], files[0])
    large = [
        _record(run=run, suite="large", memory=memory, implementation=who) for who in ("A", "B")
    ]
    records.write_json_lines(large, files[1])
    page, picture, merged = tmp_path / "page.md", tmp_path / "plot.svg", tmp_path / "all.jsonl"
    outputs = ["--markdown", str(page), "--plot", str(picture), "--json", str(merged)]
    assert main(["bench", "--from-json", *map(str, files), *outputs]) == 0

    assert merged.read_text() == files[0].read_text() + files[1].read_text()
    text = page.read_text()
    assert "| run | ops | large |" in text
    # no bar of a regular expression is taken for the edge of a column
    assert r"| command | `septet bench --filter 'a\|b'` | `septet bench --suite large` |" in text
    ops, large = text.split("## Large networks")
    assert "peak memory |" not in ops
    assert "| 3.60 GB (1.20x) | 4.00x eager |" in large
    assert large.count("`a<b & 'c'`") == 1  # the name of a case stands in its first line only
    assert text.count("`a<b & 'c'`") == 2
    assert "3.60 GB" in capsys.readouterr().out
    assert sum(e.get("fill") == "#4878a8" for e in ElementTree.parse(picture).iter()) == 3


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("{}\n", [], "line 1: not a record"),
        ("", [], "no record"),
        (None, [], "No such file"),
        ("", ["--suite", "large"], "--from-json takes all"),
        ("", ["--filter", "x"], "--from-json takes all"),
        ("", ["--list"], "--from-json takes all"),
    ],
)
def test_wrong_files_of_records(tmp_path, content, more, message, capsys):
    path = tmp_path / "records.jsonl"
    if content is not None:
        path.write_text(content)
    assert main(["bench", "--from-json", str(path), *more]) == (1 if content is None else 2)
    assert message in capsys.readouterr().err
