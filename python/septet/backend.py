"""Which implementation runs: the compiled kernels, or their plain-torch references.

``SEPTET_BACKEND=eager`` selects the references for a whole process; :func:`use_backend` does it
for a block, so that one process can compare the two::

    with septet.use_backend("eager"):
        reference = pipeline(generator=torch.manual_seed(0))
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

BACKENDS = ("fused", "eager")


class Switch:
    """One choice between implementations, for the whole process.

    A plain attribute rather than a context variable: torch.compile can guard on it.

    Args:
        variable: The environment variable that decides for a process.
        choices: The names that can be chosen.
        default: The one where the variable is not set.

    Attributes:
        value: The name that is chosen now.

    Raises:
        ValueError: If the variable holds another name.
    """

    def __init__(self, variable: str, choices: Sequence[str], default: str) -> None:
        self._choices = tuple(choices)
        self.value = self._checked(os.environ.get(variable, default), variable)

    def _checked(self, name: str, source: str) -> str:
        if name not in self._choices:
            raise ValueError(f"{source} must be one of {', '.join(self._choices)}, got {name!r}")
        return name

    @contextmanager
    def using(self, name: str, source: str) -> Iterator[None]:
        """Choose otherwise inside the block.

        Args:
            name: What to choose.
            source: What the name is an argument of, for the message.

        Raises:
            ValueError: If the name is none of the choices.
        """
        previous, self.value = self.value, self._checked(name, source)
        try:
            yield
        finally:
            self.value = previous


_backend = Switch("SEPTET_BACKEND", BACKENDS, "fused")


def current_backend() -> str:
    """Return ``"fused"`` or ``"eager"``."""
    return _backend.value


def use_backend(name: str) -> AbstractContextManager[None]:
    """Run the ops of this process, inside the block, on the named backend.

    Args:
        name: ``"fused"`` (compiled kernels) or ``"eager"`` (plain-torch references).

    Raises:
        ValueError: If the name is neither.
    """
    return _backend.using(name, "backend")
