"""Philox noise: known answers, distribution, layouts, independence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from septet import _host
from septet.ops import philox_normal, torch_cuda_offset, torch_cuda_threads
from septet.random import PhiloxSeeds, randn_tensor
from septet.testing.references.noise import philox4x32
from septet.testing.references.noise import philox_normal as reference

# Known-answer vectors of Random123 (kat_vectors, philox4x32 with 10 rounds).
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_known_answers(counter, key, words):
    assert tuple(_host.philox4x32(list(counter), list(key))) == words
    tensors = philox4x32(
        tuple(torch.tensor([c]) for c in counter), tuple(torch.tensor([k]) for k in key)
    )
    assert tuple(int(t) for t in tensors) == words


@pytest.mark.parametrize("threads", [0, 512])
def test_distribution_is_standard_normal(threads):
    z = philox_normal(torch.tensor([[20260, 0]]), (400_000,), threads=threads).double().numpy()
    error = 1 / np.sqrt(z.size)
    assert abs(z.mean()) < 4 * error
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2) * error
    assert abs((z**3).mean()) < 4 * np.sqrt(15) * error
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96) * error
    assert stats.kstest(z, "norm").pvalue > 1e-3
    # neighbours, and the partners of one Box-Muller pair
    for lag in (1, 2, 3, 4):
        assert abs((z[lag:] * z[:-lag]).mean()) < 4 * error


def test_a_sample_does_not_depend_on_the_batch():
    together = randn_tensor((3, 2, 5, 7), PhiloxSeeds([4, 5, 6]))
    for i, seed in enumerate([4, 5, 6]):
        assert torch.equal(together[i : i + 1], randn_tensor((1, 2, 5, 7), PhiloxSeeds([seed])))


def test_draws_of_one_stream_do_not_overlap():
    seeds = PhiloxSeeds([9])
    first, second = (randn_tensor((1, 101), seeds) for _ in range(2))
    whole = randn_tensor((1, 104 + 101), PhiloxSeeds([9]))
    assert torch.equal(first, whole[:, :101])
    assert torch.equal(second, whole[:, 104:])


def test_channels_last_keeps_the_logical_values():
    pairs = torch.tensor([[1, 0], [2, 0]])
    plain = philox_normal(pairs, (2, 3, 4, 5))
    last = philox_normal(pairs, (2, 3, 4, 5), memory_format=torch.channels_last)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**63 - 1),
    block=st.integers(0, 2**61 - 1),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    threads=st.sampled_from([0, 256, 1024]),
)
def test_any_stream_agrees_with_the_reference(seed, block, shape, threads):
    philox = torch.tensor([[seed, 4 * block]])
    actual = philox_normal(philox, tuple(shape), threads=threads)
    torch.testing.assert_close(
        actual, reference(philox, tuple(shape), torch.float32, threads), rtol=3e-6, atol=3e-6
    )


def test_torch_launch_sizes():
    # H100 SXM: 132 multiprocessors of 2048 threads, one wave of 270,336 elements.
    assert torch_cuda_threads(10**6, 132, 2048) == 270_336
    assert torch_cuda_threads(100, 132, 2048) == 256
    assert torch_cuda_threads(257, 132, 2048) == 512
    assert torch_cuda_offset(100, 256) == 4
    assert torch_cuda_offset(4 * 256 + 1, 256) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"philox": torch.tensor([[1, 2]])}, "philox offsets must be non-negative multiples of 4"),
        ({"philox": torch.tensor([1, 0])}, r"philox must be contiguous \[1, 2\] or \[2, 2\]"),
        ({"philox": torch.tensor([[1, 0]] * 3)}, r"philox must be contiguous \[1, 2\] or \[2, 2\]"),
        ({"philox": torch.tensor([[1.0, 0.0]])}, "philox must be int64, got float32"),
        ({"threads": 100}, "philox_threads must be a non-negative multiple of 256, got 100"),
        ({"increment": 3}, "philox_increment must be a non-negative multiple of 4, got 3"),
        ({"dtype": torch.int32}, "out must be float32, float64, float16 or bfloat16"),
        ({"dtype": torch.float64, "threads": 256}, "does not cover float64"),
    ],
)
def test_bad_arguments(arguments, message):
    options = {"philox": torch.tensor([[1, 0]]), "shape": (2, 3), **arguments}
    with pytest.raises(ValueError, match=f"^septet.philox_normal: .*{message}"):
        philox_normal(**options)
