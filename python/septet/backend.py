"""Which implementation runs: the compiled kernels, or their plain-torch references.

``SEPTET_BACKEND=eager`` selects the references for a whole process; :func:`use_backend` does it
for a block, so that one process can compare the two::

    with septet.use_backend("eager"):
        reference = pipeline(generator=torch.manual_seed(0))
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

BACKENDS = ("fused", "eager")


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


# A plain global rather than a context variable: torch.compile can guard on it.
_backend = _checked(os.environ.get("SEPTET_BACKEND", "fused"), "SEPTET_BACKEND")


def current_backend() -> str:
    """Return ``"fused"`` or ``"eager"``."""
    return _backend


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the ops of this process, inside the block, on the named backend.

    Args:
        name: ``"fused"`` (compiled kernels) or ``"eager"`` (plain-torch references).

    Raises:
        ValueError: If the name is neither.
    """
    global _backend
    previous, _backend = _backend, _checked(name, "backend")
    try:
        yield
    finally:
        _backend = previous
