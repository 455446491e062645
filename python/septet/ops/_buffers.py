"""Memory for large results on the CPU, used again once nobody holds it.

The C library hands big blocks back to the system as soon as they are freed, so a result of a few
megabytes costs a page fault for every 4 KiB: many times what a fused kernel takes to fill it. A
sampling loop frees a sample in the very moment it needs memory for the next one. Here such memory
is kept.

A buffer is a numpy array; every tensor made of it holds a reference to it through its storage, and
so does every view of such a tensor. A buffer without references is free. Nothing but reference
counts decides that, so no result can ever be overwritten while somebody can still see it.

A step takes less time than a dozen calls into torch, so an array keeps the shape of its last use:
the next tensor of that shape costs one call. Where no buffer of its size is free, a tensor takes a
larger one, or the many shapes of a UNet would each have memory of their own.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Below this the C library keeps freed memory itself.
_SMALLEST = 512 * 1024
# What may lie around for reuse, and what one buffer may take of it.
_CAPACITY = 512 * 1024 * 1024
_LARGEST = 96 * 1024 * 1024
# A tensor takes at least this part of its buffer.
_LEAST_PART = 1 / 4
_ALIGNMENT = 64

# numpy has no bfloat16: its arrays are bytes.
_NUMPY_DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float64: np.dtype(np.float64),
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
}

#: Shape, strides in elements, and dtype of a tensor.
_Form: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


class _Buffer:
    """Aligned memory, and an array over it that serves tensors of one form without more ado."""

    __slots__ = ("array", "form", "num_bytes")

    def __init__(self, num_bytes: int, form: _Form) -> None:
        self.num_bytes = num_bytes
        self.array: NDArray[Any] = np.empty(num_bytes + _ALIGNMENT, np.uint8)
        self.take_form(num_bytes, form)

    def take_form(self, num_bytes: int, form: _Form) -> None:
        """Lay another array over the same memory; nobody may hold the old one."""
        shape, strides, dtype = form
        memory = self.array if self.array.base is None else self.array.base
        start = -memory.ctypes.data % _ALIGNMENT
        kind = _NUMPY_DTYPES.get(dtype)
        if kind is None:
            self.array = memory[start : start + num_bytes]
        else:
            steps = [stride * kind.itemsize for stride in strides]
            self.array = np.ndarray(shape, kind, memory, start, steps)
        self.form = form

    def tensor(self) -> Tensor:
        """Return a tensor that refers to the array."""
        if self.form[2] in _NUMPY_DTYPES:
            return torch.from_numpy(self.array)
        shape, strides, dtype = self.form
        return torch.frombuffer(self.array, dtype=dtype).as_strided_(shape, strides)


_lock = threading.Lock()
_buffers: list[_Buffer] = []


def _references(buffer: _Buffer) -> int:
    return sys.getrefcount(buffer.array)


# What the count is when only the buffer holds its array; it differs between Python releases.
_FREE = _references(_Buffer(1, ((1,), (1,), torch.float16)))


def empty_like(model: Tensor) -> Tensor:
    """Return an uninitialised tensor of the shape, strides and dtype of a dense tensor."""
    if torch.compiler.is_compiling() or not _is_kept(model, model.nbytes):
        return torch.empty_like(model)
    return _reused(model.nbytes, (model.shape, model.stride(), model.dtype))


def empty_contiguous(model: Tensor) -> Tensor:
    """Return an uninitialised contiguous tensor of the shape and dtype of any tensor."""
    if torch.compiler.is_compiling() or not _is_kept(model, model.nbytes):
        return torch.empty_like(model, memory_format=torch.contiguous_format)
    strides = [1]
    for size in model.shape[:0:-1]:
        strides.append(strides[-1] * size)
    return _reused(model.nbytes, (model.shape, tuple(strides[::-1]), model.dtype))


def empty_channels_last(model: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Return an uninitialised channels_last tensor of a shape, of the dtype of any tensor."""
    num_bytes = math.prod(shape) * model.element_size()
    if torch.compiler.is_compiling() or not _is_kept(model, num_bytes):
        return torch.empty(
            shape,
            dtype=model.dtype,
            device=model.device,
            memory_format=torch.channels_last,
        )
    _, channels, height, width = shape
    strides = (channels * height * width, 1, channels * width, channels)
    return _reused(num_bytes, (shape, strides, model.dtype))


def _is_kept(model: Tensor, num_bytes: int) -> bool:
    """Tell whether so much memory of the model's kind is worth keeping."""
    return _SMALLEST <= num_bytes <= _LARGEST and type(model) is Tensor and model.is_cpu


def _reused(num_bytes: int, form: _Form) -> Tensor:
    """Return a tensor in a buffer that nobody else holds."""
    with _lock:
        index = _best_free(num_bytes)
        if index is None:
            _make_room(num_bytes)
            buffer = _Buffer(num_bytes, form)
            _buffers.append(buffer)
        else:
            buffer = _buffers[index]
            if buffer.form != form:
                buffer.take_form(num_bytes, form)
            # the least recently used come first, and make room first
            if index + 1 < len(_buffers):
                _buffers.append(_buffers.pop(index))
        # the tensor must refer to the buffer before the lock is released
        return buffer.tensor()


def _best_free(num_bytes: int) -> int | None:
    """Return the place of the smallest buffer that will do and that nobody else holds."""
    found = None
    for index, buffer in enumerate(_buffers):
        size = buffer.num_bytes
        if _LEAST_PART * size <= num_bytes <= size and _references(buffer) == _FREE:
            if size == num_bytes:
                return index
            if found is None or size < _buffers[found].num_bytes:
                found = index
    return found


def _make_room(num_bytes: int) -> None:
    """Forget buffers until another one fits; those in use live on without us."""
    while _buffers and sum(buffer.num_bytes for buffer in _buffers) + num_bytes > _CAPACITY:
        _buffers.pop(0)


def release_buffers() -> None:
    """Give the memory that lies around for reuse back to the system.

    Whatever a tensor still refers to stays. A network calls this where its tensors become much
    larger: what suited the smaller ones will not be used again, and only adds to the peak.
    """
    with _lock:
        idle = [i for i, buffer in enumerate(_buffers) if _references(buffer) == _FREE]
        for index in reversed(idle):
            del _buffers[index]
