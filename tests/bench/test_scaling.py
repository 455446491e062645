"""Time over operations: the rows, the line through them and its picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch

from septet.bench import runner, scaling_rows
from septet.bench.machine import facts
from septet.bench.model_rows import ModelSpec
from septet.bench.records import Latency, Record, Roofline
from septet.bench.scaling_plot import Model, write_scaling_svg
from septet.models import UNet2DModel
from septet.testing.timing import Plan, Timing


def test_a_line_is_found_again():
    found = Model.fit([(n, 0.02 + n / 3e11) for n in (1e9, 1e10, 3e11)])
    assert (found.overhead, found.rate) == (pytest.approx(0.02), pytest.approx(3e11))


def test_nothing_takes_less_than_no_time():
    found = Model.fit([(1e9, 0.001), (2e9, 0.004)])
    assert found.overhead == 0


@pytest.mark.parametrize("points", [[], [(1.0, 1.0)], [(1.0, 1.0), (1.0, 2.0)]])
def test_a_line_needs_two_points(points):
    with pytest.raises(ValueError, match="two different numbers"):
        Model.fit(points)


def test_points_outside_of_the_band_are_counted(tmp_path):
    def record(operations, seconds):
        case = {"name": str(operations), "model": "m", "shape": "1x3x8x8"}
        latency = Latency.of(Timing((seconds,), 1))
        limit = Roofline("fma", operations, operations / seconds, 1e12)
        return Record(facts(1), "scaling", case, "septet", latency, 1, None, (), limit)

    path = tmp_path / "new" / "s.svg"
    write_scaling_svg([record(n * 1e9, n * 1e-2) for n in (1, 2, 4, 8)] + [record(3e9, 0.04)], path)
    text = path.read_text()
    assert "4 of 5 points in it" in text
    assert len(ElementTree.fromstring(text).findall("{*}circle")) == 5


def test_rows_count_the_operations_of_every_shape(monkeypatch):
    config = {
        "block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1,
        "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
        "add_attention": False,
    }  # fmt: skip
    specs = tuple(ModelSpec("tiny", config, (batch, 3, 8, 8)) for batch in (1, 2))
    monkeypatch.setattr(scaling_rows, "SPECS", specs)
    monkeypatch.setattr(scaling_rows, "_network", lambda: UNet2DModel(**config).eval())
    quick = Plan(seconds=1e-6, rounds=1, warmup_seconds=0, warmup_calls=1)
    with torch.no_grad():
        one, two = runner.run(scaling_rows.rows(), runner.Settings(quick, threads=1))
    # but for the embedding of the timestep, which is computed once
    assert two.roofline.amount == pytest.approx(2 * one.roofline.amount, rel=0.1)
    assert one.speedups == two.speedups == ()
