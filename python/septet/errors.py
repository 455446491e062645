"""The exceptions septet raises on purpose.

Arguments that make no sense raise ``ValueError`` (or ``TypeError``); files that cannot be
trusted or understood raise :class:`CheckpointError`.
"""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint file or folder is missing, damaged, unsafe or not understood."""


class LibraryError(ImportError):
    """The compiled kernels could not be loaded."""
