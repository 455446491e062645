"""The rows of convolutions."""

from __future__ import annotations

import pytest
import torch

from septet.bench import conv_rows, rows, runner
from septet.testing.timing import Plan

QUICK = runner.Settings(Plan(rounds=1, warmup_calls=1, warmup_seconds=0, batch_seconds=0), 1)


def test_every_implementation_is_compared_with_float64():
    (row,) = rows.select("ops", r"^conv2d/ddpm-cifar10/3x3s1/4x128x32x32/3$")
    records = runner.run([row], QUICK)
    names = ["torch channels_last", "torch packed", "direct", "winograd2", "winograd4"]
    assert [record.implementation for record in records] == names
    assert all(record.accuracy.max_rel < 4e-6 for record in records)
    assert records[0].roofline.amount == 2 * 4 * 32 * 32 * 128 * 3 * 9


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (conv_rows.ConvSpec("strided", 1, 8, 9, 5, stride=2), 3),
        (conv_rows.ConvSpec("pointwise", 2, 8, 4, 5, kernel=1), 3),
        (conv_rows.ConvSpec("plain", 1, 8, 8, 5), 5),
    ],
    ids=lambda value: getattr(value, "model", value),
)
def test_all_calls_give_the_same(spec, count):
    with torch.no_grad():
        _, _, found = conv_rows.calls(spec)
        assert len(found) == count
        expected = found["torch channels_last"]()
        for call in found.values():
            torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-5)
