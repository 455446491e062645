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
            f"septet: the compiled library {path} is missing. Install a wheel, or build from a "
            "checkout with: pip install torch scikit-build-core pybind11 cmake ninja && "
            "pip install --no-build-isolation ."
        )
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise LibraryError(
            f"septet: {path} does not load with torch {torch.__version__}: {error}. septet needs "
            "torch 2.10 or later of the same platform; reinstall septet or torch. Without the "
            "compiled library, SEPTET_BACKEND=eager runs the plain-torch operators."
        ) from error


def _load_all() -> LibraryError | None:
    try:
        load("_C")
        if torch.version.cuda is not None and library_path("_C_cuda").is_file():
            load("_C_cuda")
    except LibraryError as error:
        return error
    import septet.ops._fakes  # noqa: F401  shape functions need the schemas

    return None


_error = _load_all()


def ops() -> Any:
    """Return ``torch.ops.septet``.

    Raises:
        LibraryError: If the compiled library could not be loaded.
    """
    if _error is not None:
        raise _error
    return torch.ops.septet
