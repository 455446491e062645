"""randn_tensor: torch's numbers, whoever draws them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from septet import random, use_backend
from septet.errors import LibraryError
from septet.random import randn_tensor

LARGE = (2, 3, 32, 33)
KERNEL = random.mt19937_normal


@pytest.fixture
def calls(monkeypatch):
    """Count the draws of our kernel, the self-check done."""
    random._kernel_draws_as_torch()
    calls = []

    def counted(out, state):
        calls.append(out.numel())
        return KERNEL(out, state)

    monkeypatch.setattr(random, "mt19937_normal", counted)
    return calls


@pytest.fixture
def unchecked():
    """Let the self-check run again, before and after."""
    random._kernel_draws_as_torch.cache_clear()
    yield
    random._kernel_draws_as_torch.cache_clear()


def _generators(seed=5):
    return torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)


def _vector_code():
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
@pytest.mark.parametrize(
    "shape", [LARGE, list(LARGE), torch.Size(LARGE), (1, 3, 4, 4), (0, 3), (3,)]
)
def test_values_and_state_are_those_of_torch(shape, device):
    ours, theirs = _generators()
    for _ in range(3):
        expected = torch.randn(tuple(shape), generator=theirs)
        assert torch.equal(randn_tensor(shape, ours, device), expected)
        assert torch.equal(ours.get_state(), theirs.get_state())


def test_global_generator():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = [torch.randn(LARGE), torch.rand(3), torch.randn(LARGE)]
        torch.manual_seed(3)
        assert torch.equal(randn_tensor(LARGE), expected[0])
        assert torch.equal(torch.rand(3), expected[1])
        assert torch.equal(randn_tensor(LARGE), expected[2])


@pytest.mark.skipif(not _vector_code(), reason="torch computes other bits without AVX2")
def test_who_draws(calls):
    numel = torch.Size(LARGE).numel()
    randn_tensor(LARGE, torch.Generator())
    randn_tensor(LARGE, [torch.Generator(), torch.Generator()])
    assert calls == [numel, numel // 2, numel // 2]
    del calls[:]
    randn_tensor((1, 3, 4, 4), torch.Generator())
    randn_tensor(LARGE, torch.Generator(), dtype=torch.float64)
    randn_tensor(LARGE, torch.Generator(), dtype=torch.bfloat16)
    with use_backend("eager"):
        randn_tensor(LARGE, torch.Generator())
    assert calls == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types(dtype):
    ours, theirs = _generators()
    noise = randn_tensor(LARGE, ours, dtype=dtype)
    assert torch.equal(noise, torch.randn(LARGE, generator=theirs, dtype=dtype))


def _wrong_value(out, state):
    KERNEL(out, state)
    out[7] += 1e-6
    return out


def _wrong_state(out, state):
    before = state.clone()
    KERNEL(out, state)
    state.copy_(before)
    return out


def _no_library(out, state):
    raise LibraryError("septet: the compiled library is missing")


def _other_state(out, state):
    raise ValueError("septet.mt19937_normal: state must be contiguous [5056], got [5064]")


@pytest.mark.parametrize("fault", [_wrong_value, _wrong_state, _no_library, _other_state])
def test_torch_draws_where_the_kernel_differs(fault, monkeypatch, unchecked):
    calls = []

    def counted(out, state):
        calls.append(out.numel())
        return fault(out, state)

    monkeypatch.setattr(random, "mt19937_normal", counted)
    ours, theirs = _generators()
    for _ in range(2):
        assert torch.equal(randn_tensor(LARGE, ours), torch.randn(LARGE, generator=theirs))
        assert torch.equal(ours.get_state(), theirs.get_state())
    assert len(calls) == 1, "the self-check runs once"


SCRIPT = """
import torch
from septet import random
a, b = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
assert torch.equal(random.randn_tensor((4, 2500), a), torch.randn((4, 2500), generator=b))
assert torch.equal(a.get_state(), b.get_state())
print(torch.backends.cpu.get_cpu_capability(), random._kernel_draws_as_torch())
"""


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_torch_without_vector_code(capability):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=True,
    )
    runs, kernel = result.stdout.split()
    assert kernel == str(runs == "AVX2")


def test_threads_that_share_a_generator_draw_different_noise():
    generator = torch.Generator().manual_seed(0)
    drawn, start = [], threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(25):
            drawn.append(randn_tensor((2, 1500), generator)[0, :4].tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tuple(values) for values in drawn}) == 100


def test_default_device_and_inference_mode():
    ours, theirs = _generators()
    with torch.device("meta"):
        noise = randn_tensor(LARGE, ours)
    assert torch.equal(noise, torch.randn(LARGE, generator=theirs))
    with torch.inference_mode():
        noise = randn_tensor(LARGE, ours)
        assert torch.equal(noise, torch.randn(LARGE, generator=theirs))


def test_fake_tensors(calls):
    with FakeTensorMode():
        assert isinstance(randn_tensor(LARGE, torch.Generator()), FakeTensor)
    assert calls == []
    assert randn_tensor(LARGE, device="meta").is_meta


def test_a_generator_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"^generator must be a torch\.Generator, a list of them"):
        randn_tensor(LARGE, 3)
    with pytest.raises(ValueError, match=r"^generator is a list of length 1, but the batch"):
        randn_tensor(LARGE, [torch.Generator()])


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (3, 5), (2, 3, 32, 32)])
def test_leading_noise_is_the_first_of_what_a_larger_batch_draws(shape):
    generator, theirs = (torch.Generator().manual_seed(1) for _ in range(2))
    noise = random.randn_leading(shape, generator, copies=2)
    expected = torch.randn((2 * shape[0], *shape[1:]), generator=theirs)
    assert torch.equal(noise, expected[: shape[0]])
    assert torch.equal(generator.get_state(), theirs.get_state())


def test_leading_noise_of_several_generators_is_that_of_single_runs():
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    noise = random.randn_leading((3, 4, 5), generators, copies=2)
    for seed, sample in enumerate(noise):
        alone = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(sample, alone[0])
    with pytest.raises(ValueError, match="list of length 3"):
        random.randn_leading((2, 4, 5), generators, copies=2)


def test_philox_streams_draw_no_copies():
    ours, theirs = random.PhiloxSeeds([1, 2]), random.PhiloxSeeds([1, 2])
    noise = random.randn_leading((2, 5), ours, copies=2)
    assert torch.equal(noise, randn_tensor((2, 5), theirs))
    assert ours.offset == theirs.offset
