"""Step tables as objects: sizes, copies, guidance, slots."""

from __future__ import annotations

import pytest
import torch

import septet
from septet.ops import COLUMNS, StepRow
from septet.schedulers import StepTable


@pytest.fixture
def table():
    scheduler = septet.DDIMScheduler()
    scheduler.set_timesteps(5)
    return scheduler.table(eta=0.5)


def test_shape_and_lookup(table):
    assert len(table) == 5
    assert table.values.shape == (5, len(COLUMNS))
    assert table.values.dtype == torch.float64
    assert table.timesteps == (800, 600, 400, 200, 0)
    assert (table.row_of(400), table.row_of(401)) == (2, None)
    assert table.adds_noise(4)
    assert table.rows[4].noise == 0.0


def test_copies_are_made_once(table):
    sample = torch.zeros(1)
    assert table.on(sample) is table.on(sample)
    assert table.on(sample).dtype == torch.float32
    assert table.on(sample.half()) is table.on(sample)
    assert torch.equal(table.on(sample.double()), table.values)


def test_guidance_changes_one_column(table):
    guided = table.with_guidance(3.0)
    column = COLUMNS.index("guidance_scale")
    others = [i for i in range(len(COLUMNS)) if i != column]
    assert guided.values[:, column].tolist() == [3.0] * 5
    assert torch.equal(guided.values[:, others], table.values[:, others])
    assert guided.timesteps == table.timesteps


def test_float32_tables_keep_the_quotient_and_round_like_float32():
    default, float32 = septet.DDIMScheduler(), septet.DDIMScheduler(table_dtype="float32")
    for scheduler in (default, float32):
        scheduler.set_timesteps(5)
    alpha_prod_t = float32.alphas_cumprod[float32.timesteps]
    guided = float32.table().with_guidance(2.0)
    for table in (float32.table(), guided):
        assert [row.x0_divisor for row in table.rows] == alpha_prod_t.sqrt().tolist()
        assert [row.x0_output for row in table.rows] == (-((1 - alpha_prod_t).sqrt())).tolist()
    assert {row.x0_divisor for row in default.table().rows} == {1.0}
    assert not torch.equal(default.table().values.float().double(), default.table().values)


def test_tables_are_kept_until_the_timesteps_change():
    scheduler = septet.DDPMScheduler()
    first = scheduler.table()
    assert scheduler.table() is first
    scheduler.set_timesteps(10)
    second = scheduler.table()
    assert len(second) == 10
    scheduler.set_timesteps(10)
    assert scheduler.table() is second


def test_slots_have_the_layout_of_the_sample():
    scheduler = septet.PNDMScheduler()
    scheduler.set_timesteps(5)
    sample = torch.zeros(2, 3, 4, 5)
    for layout in (torch.contiguous_format, torch.channels_last):
        slots = scheduler.table().new_slots(sample.to(memory_format=layout))
        assert slots.shape == (6, 2, 3, 4, 5)
        assert slots[1].is_contiguous(memory_format=layout)
    assert septet.DDPMScheduler().table().new_slots(sample) is None


def test_rows_and_timesteps_must_pair_up():
    with pytest.raises(ValueError, match="timestep"):
        StepTable([StepRow()], [1, 2])
    with pytest.raises(ValueError, match="at least one"):
        StepTable([], [])
