"""The case rows: one table per op that tests, the emulator and the benchmarks all run.

A module of this package is one family and lists its rows in ``CASES``; adding a family needs no
edit elsewhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class OpCase:
    """One call of an op.

    Attributes:
        op: Name of the op, as in ``torch.ops.septet``.
        name: What is special about the case.
        face: The public function of :mod:`septet.ops` that is called.
        reference: The plain-torch function it must agree with, with the same arguments.
        inputs: Makes the keyword arguments for a dtype, the same ones every time. Tensors that
            the call changes are among them.
        changed: Names of the arguments that the call writes to.
        dtypes: The dtypes the case runs in.
        bitwise: The CUDA source gives the bits of the CPU kernel; sums are taken in another order
            there.
        cuda: There is a CUDA source, which the emulator can run.
        single: The result has float32 precision even in float64, because noise has.
    """

    op: str
    name: str
    face: Callable[..., Any]
    reference: Callable[..., Any]
    inputs: Callable[[torch.dtype], dict[str, Any]]
    changed: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
    )
    bitwise: bool = True
    cuda: bool = True
    single: bool = False

    @property
    def id(self) -> str:
        """Name for test reports."""
        return f"{self.op}-{self.name}"


def all_cases() -> list[OpCase]:
    """Return the rows of every family."""
    cases: list[OpCase] = []
    for module in pkgutil.iter_modules(__path__):
        cases += importlib.import_module(f"{__name__}.{module.name}").CASES
    return cases
