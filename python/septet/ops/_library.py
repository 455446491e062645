"""Loading of the compiled operators, with an error that says what to do.

The library is loaded when :mod:`septet.ops` is imported. A failure is raised at the first call
that needs a kernel, so that the plain-torch backend works without one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from septet.errors import LibraryError

_FOLDER = Path(__file__).resolve().parent.parent


def library_path(name: str) -> Path:
    """Return where a compiled library (``_C``, ``_C_cuda``) of this installation lies."""
    return _FOLDER / f"{name}.so"


def load(name: str) -> None:
    """Load one compiled library into the process.

    Raises:
        LibraryError: If it is missing or does not load; the message says how to fix that.
    """
    path = library_path(name)
    if not path.is_file():
        raise LibraryError(
            f"septet: the compiled library {path} is missing. Install a wheel that has it, or "
            "build from a checkout (for CUDA with nvcc on PATH): pip install torch "
            "scikit-build-core pybind11 cmake ninja && pip install --no-build-isolation ."
        )
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise LibraryError(
            f"septet: {path} does not load with torch {torch.__version__}: {error}. septet needs "
            "torch 2.10 or later of the same platform; reinstall septet or torch. Without the "
            "compiled library, SEPTET_BACKEND=eager runs the plain-torch operators."
        ) from error


def _try_to_load(name: str) -> LibraryError | None:
    try:
        load(name)
    except LibraryError as error:
        return error
    return None


_error = _try_to_load("_C")
_cuda_error: LibraryError | None = None
if _error is None:
    import septet.ops._fakes  # noqa: F401  shape functions need the schemas

    if torch.version.cuda is not None:
        _cuda_error = _try_to_load("_C_cuda")


def ops() -> Any:
    """Return ``torch.ops.septet``.

    Raises:
        LibraryError: If the compiled library could not be loaded.
    """
    if _error is not None:
        raise _error
    return torch.ops.septet


def no_kernel(error: NotImplementedError) -> LibraryError:
    """Say why the dispatcher found no kernel for the device of a call."""
    reason = str(error).split("\n", 1)[0].split(". ", 1)[0]
    if _cuda_error is not None and "'CUDA'" in reason:
        return LibraryError(f"septet: no CUDA kernels: {_cuda_error}")
    return LibraryError(
        f"septet: {reason}. septet has kernels for the CPU and for CUDA; SEPTET_BACKEND=eager runs "
        "plain torch on any device"
    )
