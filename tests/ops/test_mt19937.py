"""The noise of torch's CPU generator: torch's bits, and torch's state afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.ops import mt19937_normal

ROUND = 624
BYTES = 5056
# where a state holds `left` and `next`
LEFT, NEXT = slice(8, 12), slice(16, 24)


@pytest.fixture(scope="module", autouse=True)
def _torch_runs_its_vector_code():
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("torch computes other bits without AVX2")


def _draw(size, generator):
    """Draw with our kernel and advance the generator."""
    state, out = generator.get_state(), torch.full((size,), float("nan"))
    assert mt19937_normal(out, state) is out
    generator.set_state(state)
    return out


def _assert_same(ours, theirs, size):
    actual, expected = _draw(size, ours), torch.randn(size, generator=theirs)
    assert torch.equal(actual.view(torch.int32), expected.view(torch.int32)), size
    assert torch.equal(ours.get_state(), theirs.get_state()), size


def _pair(seed):
    return torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)


def test_every_size():
    # one sequence, so that the draws also start at all places of a round
    ours, theirs = _pair(0)
    for size in [*range(16, 1400), 4 * ROUND, 4 * ROUND + 1, 9984, 10_000]:
        _assert_same(ours, theirs, size)


@pytest.mark.parametrize("unread", [0, 1, 15, 16, 17, 300, 607, 608, 623])
@pytest.mark.parametrize("size", [16, 17, 31, 608, 623, 624, 625, 640, 1231, 1248, 1249, 1872])
def test_every_kind_of_round(unread, size):
    ours, theirs = _pair(size)
    for generator in (ours, theirs):
        torch.rand(2 * ROUND - unread, generator=generator)
    _assert_same(ours, theirs, size)


def test_a_new_generator_and_the_default_one():
    _assert_same(torch.Generator(), torch.Generator(), 100)
    ours = torch.Generator()
    with torch.random.fork_rng(devices=[]):
        ours.set_state(torch.default_generator.get_state())
        _assert_same(ours, torch.default_generator, 5000)


OTHER_DRAWS = {
    "rand": lambda g: torch.rand(7, generator=g),
    "rand_double": lambda g: torch.rand(5, generator=g, dtype=torch.float64),
    "randint": lambda g: torch.randint(0, 1000, (11,), generator=g),
    "randperm": lambda g: torch.randperm(9, generator=g),
    # below 16 values torch keeps the second half of a pair for the next draw
    "randn_small": lambda g: torch.randn(3, generator=g),
    "randn_double": lambda g: torch.randn(33, generator=g, dtype=torch.float64),
    "randn": lambda g: torch.randn(700, generator=g),
}


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**64 - 1),
    draws=st.lists(
        st.one_of(st.integers(16, 3000), st.sampled_from(sorted(OTHER_DRAWS))),
        min_size=1,
        max_size=12,
    ),
)
def test_any_sequence_of_draws(seed, draws):
    ours, theirs = _pair(seed)
    for draw in draws:
        if isinstance(draw, int):
            _assert_same(ours, theirs, draw)
            continue
        assert torch.equal(OTHER_DRAWS[draw](ours), OTHER_DRAWS[draw](theirs))
        assert torch.equal(ours.get_state(), theirs.get_state())
    assert ours.initial_seed() == theirs.initial_seed()


def test_many_values():
    # enough to meet most of the 2^24 arguments of the logarithm and of the sine
    ours, theirs = _pair(20_260)
    _assert_same(ours, theirs, 30_000_001)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _assert_same(*_pair(3), 100_003)
    finally:
        torch.set_num_threads(before)


def test_edges_of_the_uniform_numbers():
    """The words 0 and 2^24 - 1 in either place, made by inverting the tempering."""
    words = [
        a for pair in [(0, 0), (0, 0xFFFFFF), (0xFFFFFF, 0), (0xFFFFFF, 0xFFFFFF)] for a in pair
    ]
    # the octants, where the reduction of the angle rounds a tie
    angles = [k << 21 for k in range(8)]
    block = [*words[0::2], *[0x123456] * 4, *words[1::2], *angles[:4]]
    second = [*[0xABCDE] * 8, *angles]
    state = torch.Generator().get_state().numpy()
    state[24 : 24 + 8 * 32].view(np.uint64)[:] = [_untempered(w) for w in block + second]
    state[LEFT].view(np.int32)[0], state[NEXT].view(np.uint64)[0] = ROUND, 0
    ours, theirs = torch.Generator(), torch.Generator()
    for generator in (ours, theirs):
        generator.set_state(torch.from_numpy(state))
    uniform = torch.rand(32, generator=_copy(theirs))
    assert (uniform * 2**24).long().tolist() == block + second
    _assert_same(ours, theirs, 32)


def _copy(generator):
    copy = torch.Generator()
    copy.set_state(generator.get_state())
    return copy


def _untempered(word):
    word ^= word >> 18
    word ^= (word << 15) & 0xEFC60000
    result = word
    for _ in range(5):
        result = word ^ ((result << 7) & 0x9D2C5680)
    word = result & 0xFFFFFFFF
    for _ in range(3):
        result = word ^ (result >> 11)
    return result


def _state(left=1, next_word=0):
    state = torch.Generator().get_state()
    state[LEFT] = torch.tensor([left], dtype=torch.int32).view(torch.uint8)
    state[NEXT] = torch.tensor([next_word]).view(torch.uint8)
    return state


@pytest.mark.parametrize(
    ("out", "state", "message"),
    [
        (torch.empty(15), None, "out must hold at least 16 values, got 15"),
        (torch.empty(0), None, "out must hold at least 16 values, got 0"),
        (torch.empty(16, dtype=torch.float64), None, "out must be float32, got float64"),
        (torch.empty(16, 16).t(), None, "out must be contiguous"),
        (None, torch.zeros(BYTES), "state must be uint8, got float32"),
        (
            None,
            torch.zeros(16, dtype=torch.uint8),
            r"state must be contiguous \[5056\], got \[16\]",
        ),
        (
            None,
            torch.zeros(2 * BYTES, dtype=torch.uint8)[::2],
            r"state must be contiguous \[5056\]",
        ),
        (None, torch.zeros(BYTES, dtype=torch.uint8), "state must be that of a CPU generator"),
        (None, _state(left=625), "state must be that of a CPU generator, got left 625, next 0"),
        (None, _state(left=0), "state must be that of a CPU generator, got left 0"),
        (None, _state(left=600, next_word=26), "state must be that of a CPU generator"),
        (None, _state(next_word=-1), "state must be that of a CPU generator"),
    ],
)
def test_bad_arguments(out, state, message):
    out = torch.empty(64) if out is None else out
    state = torch.Generator().get_state() if state is None else state
    before = state.clone()
    with pytest.raises(ValueError, match=f"^septet.mt19937_normal: .*{message}"):
        mt19937_normal(out, state)
    assert torch.equal(state, before)
