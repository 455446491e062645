"""The rows of attention, and the table that is made of them."""

from __future__ import annotations

import pytest
import torch

from septet.bench import attention_rows, rows, runner
from septet.ops import attention_table
from septet.testing.references.attention import attention as reference
from septet.testing.timing import Plan

QUICK = runner.Settings(Plan(rounds=1, warmup_calls=1, warmup_seconds=0, batch_seconds=0), 1)
SPEC = attention_rows.SPECS[-1]


def test_implementations_agree_with_the_reference():
    (row,) = rows.select("ops", r"^attention/ldm-bert/float32/2x77x77x8x64$")
    records = runner.run([row], QUICK)
    assert [record.implementation for record in records] == ["septet", "sdpa"]
    assert all(record.accuracy.max_rel < 2e-6 for record in records)
    assert records[0].roofline.kind == "fma"
    assert records[0].roofline.amount == 4 * 2 * 77 * 77 * 8 * 64


@pytest.mark.parametrize(
    "spec",
    [
        attention_rows.AttentionSpec("self", 2, 5, 5, 2, 8),
        attention_rows.AttentionSpec("cross", 2, 5, 7, 2, 8),
        attention_rows.AttentionSpec("prefix", 1, 5, 5, 3, 8, 4),
    ],
    ids=lambda spec: spec.model,
)
def test_inputs_are_slices_of_projections(spec):
    arguments = attention_rows.inputs(spec, torch.float32)
    assert arguments["query"].shape == (spec.batch, spec.queries, spec.heads, spec.width)
    assert arguments["key"].shape == (spec.batch, spec.keys, spec.heads, spec.width)
    assert ("prefix_key" in arguments) == bool(spec.prefix)
    assert not arguments["value"].is_contiguous()
    for call in attention_rows.calls(arguments).values():
        torch.testing.assert_close(call(), reference(**arguments))


def test_winner_must_lead_clearly():
    small, large = ("cpu", "float32", 1, 1, 1), ("cpu", "float32", 2, 2, 2)
    gpu = ("cuda", "float16", 1, 1, 1)
    timings = [
        (small, {"septet": 1.00, "sdpa": 0.97}),
        (large, {"septet": 1.0, "sdpa": 0.5}),
        (large, {"septet": 1.0, "sdpa": 1.3}),
        (gpu, {"septet": 0.9, "sdpa": 1.0}),
    ]
    expected = {small: "septet", large: "sdpa", gpu: "septet"}
    assert attention_rows.winners(timings) == expected


def test_table_covers_the_rows():
    cells = {spec.cell("cpu", dtype) for spec in attention_rows.SPECS for dtype in spec.dtypes}
    assert cells == {key for key in attention_table.WINNERS if key[0] == "cpu"}, (
        "run tools/tune_attention.py --write"
    )
