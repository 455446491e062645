"""Remove the barriers of our CUDA kernels one at a time; the emulator must object each time.

A test of the tests that takes a compilation per barrier, so it is run by hand after a change to a
kernel or to the detector. A barrier whose absence goes unnoticed is either not needed, or no case
row needs it, or the detector misses it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
EMULATION = ROOT / "tests" / "emulation"
BARRIER = re.compile(r"__sync(?:threads|warp)\(\);|wait_for_copies<\d>\(\);")
INCLUDE = re.compile(r'#include "(ops/[\w.]+\.cuh)"')
TORCH = Path(torch.__file__).parent
FLAGS = [
    *["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-w"],
    *["-DSEPTET_EMULATED", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"],
    *[f"-I{EMULATION / 'include'}", "-isystem", str(TORCH / "include")],
]
INSTRUMENTED = ["-g1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]
RUN = """
import sys, torch
from septet.ops import _library
from septet.testing.cases import all_cases
torch.ops.load_library(sys.argv[1])
_library.ops = lambda: torch.ops.septet_emulated
for case in all_cases():
    if case.op in sys.argv[2].split(","):
        for dtype in {torch.float32, torch.float16} & set(case.dtypes):
            case.face(**case.inputs(dtype))
"""
OPS = {"norm": "group_norm_act", "threshold": "threshold_quantile", "noise": "philox_normal"}


def sources_of(path: Path) -> set[Path]:
    """Return a kernel source and the headers of its family; what all share has its own test."""
    found = {path}
    for name in INCLUDE.findall(path.read_text()):
        found |= sources_of(ROOT / "csrc" / name)
    return found


def compile_(arguments: list[str | Path]) -> None:
    """Run g++ with the flags of the emulator."""
    subprocess.run(["g++", *FLAGS, *arguments], check=True)


def complaint(family: str, csrc: Path, rest: list[Path], folder: Path) -> str:
    """Compile a family and run its cases; return what the emulator says, or nothing."""
    kernels, library = folder / f"{family}.o", folder / f"{family}.so"
    source = csrc / "ops" / f"{family}.cu"
    compile_([*INSTRUMENTED, f"-I{csrc}", "-x", "c++", "-c", source, "-o", kernels])
    linked = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", f"-Wl,-rpath,{TORCH / 'lib'}"]
    compile_(["-shared", kernels, *rest, *linked, "-o", library])
    ops = OPS.get(family, family)
    run = [sys.executable, "-c", RUN, str(library), ops]
    result = subprocess.run(run, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return ""
    return re.sub(r"/\S*/", "", result.stderr.strip().splitlines()[-1])


def main() -> None:
    """Go through the families that are named, or through all."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = sorted(path.stem for path in (ROOT / "csrc" / "ops").glob("*.cu"))
    parser.add_argument("families", nargs="*", default=every, metavar="FAMILY")
    unnoticed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rest = []
        for part in sorted(EMULATION.glob("*.cpp")):
            rest.append(folder / f"{part.stem}.o")
            compile_([f"-I{ROOT / 'csrc'}", "-c", part, "-o", rest[-1]])
        for family in parser.parse_args().families:
            for path in sorted(sources_of(ROOT / "csrc" / "ops" / f"{family}.cu")):
                text = path.read_text()
                for barrier in BARRIER.finditer(text):
                    csrc = folder / "csrc"
                    shutil.copytree(ROOT / "csrc", csrc, dirs_exist_ok=True)
                    changed = text[: barrier.start()] + text[barrier.end() :]
                    (csrc / path.relative_to(ROOT / "csrc")).write_text(changed)
                    said = complaint(family, csrc, rest, folder)
                    unnoticed += not said
                    line = text.count("\n", 0, barrier.start()) + 1
                    print(f"{family}: {path.name}:{line} {barrier[0]} {said or 'UNNOTICED'}")
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
