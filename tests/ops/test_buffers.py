"""Reused memory is never memory that somebody can still see."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch

from septet.ops import StepRow, _buffers, release_buffers, step

SHAPE = (4, 3, 256, 256)
X = torch.zeros(SHAPE)


@pytest.fixture(autouse=True)
def _own_buffers(monkeypatch):
    monkeypatch.setattr(_buffers, "_buffers", [])


def test_memory_comes_back_when_the_tensor_is_gone():
    first = _buffers.empty_like(X)
    address = first.data_ptr()
    assert address % 64 == 0
    assert _buffers.empty_like(X).data_ptr() != address
    del first
    addresses = {_buffers.empty_like(X).data_ptr() for _ in range(4)}
    assert address in addresses
    assert len(_buffers._buffers) == 2


@pytest.mark.parametrize(
    "hold",
    [
        lambda t: t,
        lambda t: t[1, :, ::2],
        lambda t: t.detach(),
        lambda t: t.numpy(),
        lambda t: t.untyped_storage(),
        lambda t: t.view(torch.uint8),
        lambda t: torch.nn.Parameter(t),
        lambda t: memoryview(t.numpy()),
    ],
)
def test_whatever_can_see_the_memory_keeps_it(hold):
    tensor = _buffers.empty_like(X)
    address = tensor.data_ptr()
    holder = hold(tensor)
    del tensor
    others = [_buffers.empty_like(X) for _ in range(3)]
    assert address not in [other.data_ptr() for other in others]
    del holder


def test_released_memory_is_only_what_nobody_sees():
    held, gone = _buffers.empty_like(X), _buffers.empty_like(X)
    kept = held.fill_(5)
    del gone
    release_buffers()
    assert len(_buffers._buffers) == 1
    others = [_buffers.empty_like(X).fill_(7) for _ in range(2)]
    assert (kept == 5).all()
    del held, kept, others
    release_buffers()
    assert _buffers._buffers == []


def test_tensors_are_ordinary():
    for model in (X, X.contiguous(memory_format=torch.channels_last), X.bfloat16(), X.double()):
        tensor = _buffers.empty_like(model).fill_(3)
        assert tensor.shape == model.shape
        assert tensor.stride() == model.stride()
        assert tensor.dtype == model.dtype
        assert not tensor._is_view()
        for twin in (copy.deepcopy(tensor), pickle.loads(pickle.dumps(tensor)), tensor.clone()):
            assert torch.equal(twin, tensor)
        with torch.inference_mode():
            assert torch.equal(_buffers.empty_like(model).copy_(tensor) + 1, tensor + 1)


def test_small_huge_and_foreign_tensors_are_torchs(monkeypatch):
    _buffers.empty_like(X[:1, :1])
    _buffers.empty_like(torch.nn.Parameter(X))
    _buffers.empty_like(X.to("meta"))
    monkeypatch.setattr(_buffers, "_LARGEST", X.nbytes - 1)
    _buffers.empty_like(X)
    assert _buffers._buffers == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_smaller_tensor_takes_a_larger_buffer(dtype):
    large = X.to(dtype)
    address = _buffers.empty_like(large).data_ptr()
    half = _buffers.empty_like(large[:2]).fill_(1)
    assert half.data_ptr() == address
    assert half.untyped_storage().nbytes() == half.nbytes
    assert _buffers.empty_like(large).fill_(2).data_ptr() != address
    assert (half == 1).all()
    assert len(_buffers._buffers) == 2


def test_a_much_smaller_tensor_does_not():
    address = _buffers.empty_like(X).data_ptr()
    assert _buffers.empty_like(X[:1, :2]).data_ptr() != address
    assert len(_buffers._buffers) == 2


def test_of_free_buffers_the_smallest_that_will_do_is_taken():
    held = [_buffers.empty_like(X[:rows]) for rows in (4, 2, 3)]
    addresses = [tensor.data_ptr() for tensor in held]
    del held
    assert _buffers.empty_like(X[:3]).data_ptr() == addresses[2]
    assert _buffers.empty_like(X[:2]).data_ptr() == addresses[1]
    taken = _buffers.empty_like(X[:2])
    assert taken.data_ptr() == addresses[1]
    assert _buffers.empty_like(X[:2]).data_ptr() == addresses[2]


def test_the_least_recently_used_make_room(monkeypatch):
    monkeypatch.setattr(_buffers, "_CAPACITY", 3 * X.nbytes)
    kept = [_buffers.empty_like(X).fill_(i) for i in range(5)]
    assert len(_buffers._buffers) == 3
    assert [float(t.mean()) for t in kept] == [0, 1, 2, 3, 4]


def test_a_loop_needs_two_buffers():
    table = torch.tensor([StepRow(base=0.5, output=0.5).as_list()])
    sample, output = torch.ones(SHAPE), torch.ones(SHAPE)
    addresses = set()
    for _ in range(6):
        sample = step(sample, output, table)
        addresses.add(sample.data_ptr())
    assert len(addresses) == 2
    assert torch.equal(sample, torch.ones(SHAPE))


def test_threads_never_share_a_buffer():
    wrong = []

    def work(number):
        for i in range(60):
            tensor = _buffers.empty_like(X).fill_(number + i)
            if not bool((tensor == number + i).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
