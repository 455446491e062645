"""The alignment search against trying every alignment."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monotonic_alignment import alignment_path, log_prior, most_likely_durations


def score(scores, durations):
    """Add up the scores of an alignment of one sample."""
    owners = [symbol for symbol, count in enumerate(durations) for _ in range(count)]
    return sum(float(scores[symbol, frame]) for frame, symbol in enumerate(owners))


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=3),
    seed=st.integers(0, 999),
)
def test_no_alignment_is_better(sizes, seed):
    symbols = [count for count, _ in sizes]
    frames = [count + more for count, more in sizes]
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(sizes), max(symbols), max(frames), generator=generator)
    found = most_likely_durations(scores, torch.tensor(symbols), torch.tensor(frames))
    for index, (count, length) in enumerate(zip(symbols, frames, strict=True)):
        every = itertools.product(range(1, length + 1), repeat=count)
        best = max(score(scores[index], d) for d in every if sum(d) == length)
        durations = found[index].tolist()
        assert sum(durations) == length
        assert not any(durations[count:])
        assert score(scores[index], durations) == pytest.approx(best, abs=1e-5)


def test_log_prior_is_that_of_a_unit_normal():
    mu, mel = torch.randn(2, 5, 3), torch.randn(2, 5, 7)
    normal = torch.distributions.Normal(mu[:, :, :, None], 1.0)
    expected = normal.log_prob(mel[:, :, None, :]).sum(1)
    difference = log_prior(mu, mel) - expected
    assert (difference - difference.mean()).abs().max() < 1e-4


def test_path():
    path = alignment_path(torch.tensor([[2, 1, 0], [1, 0, 3]]), 4)
    assert path.tolist() == [
        [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]],
        [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]],
    ]


def test_too_few_frames_are_refused():
    with pytest.raises(ValueError, match="every symbol needs a frame"):
        most_likely_durations(torch.zeros(1, 3, 2), torch.tensor([3]), torch.tensor([2]))
