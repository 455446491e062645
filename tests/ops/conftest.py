"""The implementations of an op that all must give the same result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from septet import _host
from septet.ops import _library


def _as_numpy(value):
    if isinstance(value, list):
        return [_as_numpy(entry) for entry in value]
    if not isinstance(value, torch.Tensor):
        return value
    # numpy has no bfloat16; _host takes its bits.
    return (value.view(torch.uint16) if value.dtype == torch.bfloat16 else value).numpy()


class HostOps:
    """torch.ops.septet, served by septet._host on numpy buffers."""

    class _Op:
        def __init__(self, function):
            self._function = function

        def default(self, *arguments):
            self._function(*(_as_numpy(value) for value in arguments))

        def plain(self, *arguments):
            *others, stored = arguments
            self._function(*map(_as_numpy, others), stored=_as_numpy(stored))

    def __getattr__(self, name):
        return self._Op(getattr(_host, name))


@pytest.fixture
def host_ops(monkeypatch):
    """Route the Python faces to numpy."""
    monkeypatch.setattr(_library, "ops", HostOps)


@pytest.fixture
def emulated_ops(monkeypatch):
    """Route the Python faces to the CUDA sources, run by the thread-block emulator."""
    library = Path(_library.__file__).parent.parent / "_C_emulated.so"
    assert library.is_file(), "build with SEPTET_EMULATION=ON, as make test does"
    torch.ops.load_library(str(library))
    monkeypatch.setattr(_library, "ops", lambda: torch.ops.septet_emulated)
