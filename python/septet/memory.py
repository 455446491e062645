"""Memory that is mapped from a file: telling it, giving it back, and how much is free.

Weights are mapped privately (copy on write): a page is the file's until somebody writes to it, and
the process's own from then on. Pages of the first kind can be given back at any time, for the
system reads them again when they are next needed. Only Linux tells the two apart; elsewhere nothing
counts as mapped.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# proc_pid_pagemap(5): one number per page; bit 63 tells that the page is in memory, and bit 61 that
# it is a file's (or shared), which a page written to through a private mapping is no longer.
_PAGEMAP = Path("/proc/self/pagemap")
_ENTRY = 8
_IN_MEMORY, _OF_FILE = 1 << 7, 1 << 5  # in the last byte of an entry

#: Weights of fewer bytes are copied out of their file: only whole pages are given back.
SMALLEST_MAPPED = 1 << 17


def is_mapped(tensor: Tensor) -> bool:
    """Tell whether the first value of a tensor lies in a page of a file that is mapped."""
    if tensor.device.type != "cpu" or tensor.is_meta or tensor.numel() == 0:
        return False
    tensor.detach()[(0,) * tensor.dim()].item()  # brings the page into memory
    page = tensor.data_ptr() // mmap.PAGESIZE
    return _are_of_file(page, 1) == b"\1"


def release(tensor: Tensor) -> None:
    """Give back the pages of a contiguous tensor that are still as in the file.

    What has been written to stays, and so does the memory of a tensor that is not mapped. The
    caller sees to it that nobody writes to the tensor meanwhile.
    """
    if tensor.device.type != "cpu" or tensor.is_meta or not tensor.is_contiguous():
        return
    start = tensor.data_ptr()
    first = -(-start // mmap.PAGESIZE)
    end = (start + tensor.numel() * tensor.element_size()) // mmap.PAGESIZE
    madvise = _madvise()
    if end <= first or madvise is None:
        return
    for run in re.finditer(b"\1+", _are_of_file(first, end - first)):
        length = (run.end() - run.start()) * mmap.PAGESIZE
        madvise((first + run.start()) * mmap.PAGESIZE, length, mmap.MADV_DONTNEED)


def available_bytes() -> int | None:
    """Return how much memory new data may take without swapping, None if nothing tells."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", _meminfo(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


def _meminfo() -> str:
    return Path("/proc/meminfo").read_text()


def _are_of_file(first: int, count: int) -> bytes:
    """Return a byte per page, 1 where it is in memory and a file's; empty if nothing tells."""
    try:
        with _PAGEMAP.open("rb", buffering=0) as file:
            entries = os.pread(file.fileno(), count * _ENTRY, first * _ENTRY)
    except OSError:
        return b""
    if not entries or len(entries) % _ENTRY:
        return b""
    flags = torch.frombuffer(bytearray(entries), dtype=torch.uint8)[_ENTRY - 1 :: _ENTRY]
    wanted = _IN_MEMORY | _OF_FILE
    return ((flags & wanted) == wanted).to(torch.uint8).numpy().tobytes()


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
