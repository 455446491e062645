"""Memory for large results on the CPU, used again once nobody holds it.

The C library hands big blocks back to the system as soon as they are freed, so a result of a few
megabytes costs a page fault for every 4 KiB: many times what a fused kernel takes to fill it. A
sampling loop frees a sample in the very moment it needs memory for the next one. Here such memory
is kept.

A buffer is a numpy array; every tensor made of it holds a reference to it through its storage, and
so does every view of such a tensor. A buffer without references is free. Nothing but reference
counts decides that, so no result can ever be overwritten while somebody can still see it.
"""

from __future__ import annotations

import math
import sys
import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Below this the C library keeps freed memory itself.
_SMALLEST = 512 * 1024
# What may lie around for reuse, and what one buffer may take of it.
_CAPACITY = 256 * 1024 * 1024
_LARGEST = _CAPACITY // 4
_ALIGNMENT = 64

_lock = threading.Lock()
_buffers: list[NDArray[np.uint8]] = []


def _references(buffers: list[NDArray[np.uint8]], index: int) -> int:
    return sys.getrefcount(buffers[index])


# What the count is when only the list holds a buffer; it differs between Python releases.
_FREE = _references([np.empty(1, np.uint8)], 0)


def empty_like(model: Tensor) -> Tensor:
    """Return an uninitialised tensor of the shape, strides and dtype of a dense tensor."""
    if not _is_kept(model):
        return torch.empty_like(model)
    return _reused(model).as_strided_(model.shape, model.stride())


def empty_contiguous(model: Tensor) -> Tensor:
    """Return an uninitialised contiguous tensor of the shape and dtype of any tensor."""
    if not _is_kept(model):
        return torch.empty_like(model, memory_format=torch.contiguous_format)
    return _reused(model).view(model.shape)


def empty_channels_last(model: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Return an uninitialised channels_last tensor of a shape, of the dtype of any tensor."""
    num_bytes = math.prod(shape) * model.element_size()
    if not _is_kept(model, num_bytes):
        return torch.empty(
            shape,
            dtype=model.dtype,
            device=model.device,
            memory_format=torch.channels_last,
        )
    batch, channels, height, width = shape
    flat = _reused(model, num_bytes)
    return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _is_kept(model: Tensor, num_bytes: int | None = None) -> bool:
    """Tell whether memory for a tensor of this kind and size is worth keeping."""
    return (
        not torch.compiler.is_compiling()
        and _SMALLEST <= (model.nbytes if num_bytes is None else num_bytes) <= _LARGEST
        and type(model) is Tensor
        and model.device.type == "cpu"
    )


def _reused(model: Tensor, num_bytes: int | None = None) -> Tensor:
    """Return a flat tensor of as many elements in a buffer that nobody else holds."""
    with _lock:
        # the tensor must refer to the buffer before the lock is released
        buffer = _free_buffer(model.nbytes if num_bytes is None else num_bytes)
        return torch.frombuffer(buffer, dtype=model.dtype)


def _free_buffer(num_bytes: int) -> NDArray[np.uint8]:
    """Return a buffer that nobody holds; the lock must be held."""
    for index in range(len(_buffers)):
        if _buffers[index].nbytes == num_bytes and _references(_buffers, index) == _FREE:
            # the least recently used come first, and make room first
            buffer = _buffers.pop(index)
            break
    else:
        _make_room(num_bytes)
        memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        buffer = memory[start : start + num_bytes]
    _buffers.append(buffer)
    return buffer


def _make_room(num_bytes: int) -> None:
    """Forget buffers until another one fits; those in use live on without us."""
    while _buffers and sum(buffer.nbytes for buffer in _buffers) + num_bytes > _CAPACITY:
        _buffers.pop(0)


def release_buffers() -> None:
    """Give the memory that lies around for reuse back to the system.

    Whatever a tensor still refers to stays. A network calls this where its tensors become much
    larger: what suited the smaller ones will not be used again, and only adds to the peak.
    """
    with _lock:
        idle = [i for i in range(len(_buffers)) if _references(_buffers, i) == _FREE]
        for index in reversed(idle):
            del _buffers[index]
