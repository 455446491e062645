"""The rows of whole pipelines, and those of new processes."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

import tiny_networks
from septet.bench import pipeline_rows, rows, runner, starts
from septet.bench.pipeline_rows import PipelineSpec
from septet.bench.rows import Program, Row, StartWorkload
from septet.testing.timing import Plan

QUICK = runner.Settings(Plan(seconds=1e-6, rounds=1, warmup_seconds=0, warmup_calls=1), threads=1)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["DDPMPipeline", "DDIMPipeline", "PNDMPipeline"])
def test_both_draw_the_same(kind, monkeypatch):
    pytest.importorskip("diffusers")
    spec = PipelineSpec(kind, "tiny", {"batch_size": 2}, tiny_networks.UNET)
    monkeypatch.setattr(pipeline_rows, "SPECS", (spec,))
    records = runner.run(pipeline_rows.rows(), QUICK)
    names = ["diffusers (contiguous)", "diffusers (channels_last)", "septet"]
    assert [record.implementation for record in records] == names
    assert [speedup.over for speedup in records[-1].speedups] == names[:2]
    assert max(record.accuracy.max_rel for record in records) < 1e-4


def test_rows_are_named_and_can_be_sent_to_a_process():
    found = rows.select("pipelines")
    names = [row.name for row in found]
    assert len(set(names)) == len(names)
    assert names[0] == "ddpm.run/digits/1x/10-steps"
    assert names[-1] == "ldm.run/emoji/1x/10-steps"
    for row in found:
        workload = row.build()
        pickle.dumps((workload.candidates, workload.write_weights))


def _write_two(folder):
    (folder / "number").write_text("2")


@pytest.mark.usefixtures("here")
def test_what_programs_have_in_common_is_taken_off(monkeypatch):
    turns = []

    def start(source, folder, file, threads):
        turns.append(source)
        if source != "common":
            np.save(file, float((folder / "number").read_text()) + (source == "wrong"))
        # the first turn would show
        return {"common": 1.0, "right": 3.0, "wrong": 1.5}[source] + 100 * (len(turns) <= 3)

    monkeypatch.setattr(starts, "start", start)
    programs = (Program("A", "right", is_baseline=True), Program("B", "wrong"))
    workload = StartWorkload(programs, _write_two, "common", "two")
    common, *both = runner.run([Row("startup", "two", {}, lambda: workload)], QUICK)
    assert turns == ["common", "right", "wrong"] * 2
    assert (common.implementation, common.latency.p50) == ("common", 1.0)
    assert (common.accuracy, common.speedups) == (None, ())
    assert [record.latency.p50 for record in both] == [2.0, 0.5]
    assert [record.accuracy.max_rel for record in both] == [0.0, 0.5]
    assert [(speedup.over, speedup.value) for speedup in both[1].speedups] == [("A", 4.0)]


@pytest.mark.usefixtures("here")
def test_a_start_that_seems_shorter_than_what_all_have_in_common(monkeypatch):
    def start(source, folder, file, threads):
        if source != "common":
            np.save(file, 2.0)
        return {"common": 2.0, "right": 3.0, "quick": 1.9}[source]

    monkeypatch.setattr(starts, "start", start)
    programs = (Program("A", "right", is_baseline=True), Program("B", "quick"))
    workload = StartWorkload(programs, _write_two, "common", "two")
    *_, quick = runner.run([Row("startup", "two", {}, lambda: workload)], QUICK)
    assert 0 < quick.latency.p50 < 0.01
    assert math.isfinite(quick.speedups[0].value)


def test_a_program_is_timed_until_its_result_is_there(tmp_path):
    _write_two(tmp_path)
    file = tmp_path / "result.npy"
    source = (
        "import pathlib, time\n"
        "time.sleep(0.3)\n"
        "result = [int(pathlib.Path(folder, 'number').read_text())]"
    )
    assert starts.start(source, tmp_path, file, 1) > 0.3
    assert np.load(file).tolist() == [2]


def test_a_program_that_fails_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        starts.start("1 / 0", tmp_path, tmp_path / "result.npy", 1)


@pytest.mark.slow
def test_both_start_alike():
    pytest.importorskip("diffusers")
    records = runner.run(rows.select("startup"), QUICK)
    assert [record.implementation for record in records] == [
        "import torch", "diffusers", "septet",
    ] * 2  # fmt: skip
    assert max(record.accuracy.max_rel for record in records if record.accuracy) < 1e-4
