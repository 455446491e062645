"""Loading of the compiled operators, once, with an error that says what to do."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from septet.errors import LibraryError

_FOLDER = Path(__file__).resolve().parent.parent


def _load(name: str) -> None:
    path = _FOLDER / f"{name}.so"
    if not path.is_file():
        raise LibraryError(
            f"septet: the compiled library {path} is missing. Install a wheel, or build from a "
            "checkout with: pip install torch && pip install --no-build-isolation ."
        )
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise LibraryError(
            f"septet: {path} does not load with torch {torch.__version__}: {error}. septet needs "
            "torch 2.10 or later of the same platform; reinstall septet or torch. Without the "
            "compiled library, SEPTET_BACKEND=eager runs the plain-torch operators."
        ) from error


def has_cuda_library() -> bool:
    """Tell whether this build ships CUDA kernels."""
    return (_FOLDER / "_C_cuda.so").is_file()


@functools.cache
def ops() -> Any:
    """Return ``torch.ops.septet`` with its kernels loaded.

    Raises:
        LibraryError: If the compiled library is missing or does not load.
    """
    _load("_C")
    if torch.version.cuda is not None and has_cuda_library():
        _load("_C_cuda")
    import septet.ops._fakes  # noqa: F401  shape functions need the schemas

    return torch.ops.septet
