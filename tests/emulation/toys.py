"""Kernels compiled for the emulator, as functions of numpy arrays and integers."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
WARNINGS = ["-Wall", "-Wextra"]
GXX = [
    *["g++", "-std=c++20", "-O2", *WARNINGS, "-Werror", "-fvisibility=hidden", "-fPIC"],
    *["-DSEPTET_EMULATED", f"-I{CSRC}", f"-I{HERE / 'include'}"],
]
ORDERS = ["forward", "reverse", "shuffle:1", "shuffle:2"]


class Toys:
    """The kernels of a library, by their names."""

    def __init__(self, library: Path) -> None:
        """Load a library compiled from toy kernels and emulator.cpp."""
        self._library = ctypes.CDLL(str(library))

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Return the entry point `name`, which raises the message that it returns."""
        function = self._library[name]
        function.restype = ctypes.c_char_p

        def call(*arguments: np.ndarray | int) -> None:
            message = function(
                *(
                    a.ctypes.data_as(ctypes.c_void_p)
                    if isinstance(a, np.ndarray)
                    else ctypes.c_int64(a)
                    for a in arguments
                )
            )
            if message is not None:
                raise RuntimeError(message.decode())

        return call


def compile_kernels(source: Path, target: Path) -> None:
    """Compile a source of toy kernels to an object file."""
    subprocess.run([*GXX, "-x", "c++", "-c", source, "-o", target], check=True)


def link_with_emulator(kernels: Path, library: Path, *options: str) -> Toys:
    """Compile the emulator with options and link it with kernels."""
    inputs = [HERE / "emulator.cpp", kernels]
    subprocess.run([*GXX, *options, "-shared", *inputs, "-o", library], check=True)
    return Toys(library)
