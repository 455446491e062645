"""Masks over frames: writing the padding alone is multiplying by the mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.nn.frame_mask import FrameMask


def mask_of(lengths, frames):
    return (torch.arange(frames) < torch.tensor(lengths)[:, None]).float()[:, None]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=3), st.booleans())
def test_padding_becomes_zero(lengths, channels_last):
    values = mask_of(lengths, 12)
    mask = FrameMask.over_bins(values, 4)
    for height, width in ((4, 12), (2, 6), (1, 3)):
        values = values[:, None, :, :: 12 // width] if width == 12 else values[..., ::2]
        hidden, shift = torch.randn(len(lengths), 3, height, width), torch.randn(1, 3)
        if channels_last:
            hidden = hidden.contiguous(memory_format=torch.channels_last)
        expected = hidden * values
        assert mask.is_whole == bool(values.all())
        assert torch.equal(mask.values, values.expand(-1, -1, height, -1))
        assert torch.equal(mask(hidden.clone()), expected)
        shifted = expected + shift[:, :, None, None] * values
        torch.testing.assert_close(mask.shift(expected.clone(), shift), shifted)
        mask = mask.halved()


@pytest.mark.parametrize("row", [[1, 0, 1, 1], [0, 1, 1, 0], [1.0, 1.0, 0.5, 0.0]])
def test_other_masks_multiply(row):
    values = torch.tensor([[row]])
    mask, hidden = FrameMask.over_bins(values, 2), torch.randn(1, 3, 2, 4)
    assert mask.lengths is None
    assert not mask.is_whole
    assert torch.equal(mask(hidden), hidden * values[:, None])


def test_gradients_stop_at_the_padding():
    mask = FrameMask.over_bins(mask_of([3], 4), 2)
    hidden, shift = torch.ones(1, 3, 2, 4, requires_grad=True), torch.ones(1, 3, requires_grad=True)
    mask.shift(mask(hidden), shift).sum().backward()
    assert torch.equal(hidden.grad, mask.values.expand(-1, 3, -1, -1))
    assert torch.equal(shift.grad, torch.full((1, 3), 6.0))
    assert torch.equal(hidden, torch.ones(1, 3, 2, 4))
