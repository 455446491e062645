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
    *["-DSEPTET_EMULATED", f"-I{HERE / 'include'}", f"-I{HERE}"],
]
# As cmake/emulation.cmake has it.
INSTRUMENTED = ["-g1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]
ORDERS = ["forward", "reverse", "shuffle:1", "shuffle:2"]


class Toys:
    """The kernels of a library, by their names."""

    def __init__(self, library: Path) -> None:
        """Load a library of toy kernels and the emulator."""
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


class Builder:
    """Compiles toy kernels, and the emulator once for all of them.

    Args:
        folder: Where the results go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._emulators: dict[tuple[str, ...], Path] = {}

    def __call__(self, source: Path, *options: str, csrc: Path = CSRC) -> Toys:
        """Compile kernels and link them with an emulator compiled with options.

        Args:
            source: A file of toy kernels.
            options: For the emulator.
            csrc: Where the headers of kernels lie.
        """
        kernels = self._folder / f"{source.stem}_{csrc.name}.o"
        if not kernels.exists():
            compile_ = [*GXX, *INSTRUMENTED, f"-I{csrc}", "-x", "c++", "-c"]
            subprocess.run([*compile_, source, "-o", kernels], check=True)
        library = self._folder / f"{kernels.stem}{''.join(options)}.so"
        subprocess.run(
            [*GXX, "-shared", self._emulator(options), kernels, "-o", library], check=True
        )
        return Toys(library)

    def _emulator(self, options: tuple[str, ...]) -> Path:
        if options not in self._emulators:
            parts = [path for path in sorted(HERE.glob("*.cpp")) if path.name != "library.cpp"]
            whole = self._folder / f"emulator{''.join(options)}.cpp"  # in one go: half the time
            whole.write_text("".join(f'#include "{path}"\n' for path in parts))
            target = whole.with_suffix(".o")
            subprocess.run([*GXX, *options, f"-I{CSRC}", "-c", whole, "-o", target], check=True)
            self._emulators[options] = target
        return self._emulators[options]
