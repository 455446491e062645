"""The detector finds planted races and stray accesses, and lets everything else pass."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from toys import CSRC, HERE, Builder, Toys

SOURCE = HERE / "toy_faults.cu"
BLOCK = 64


@pytest.fixture(scope="module")
def toys(build: Builder) -> Toys:
    return build(SOURCE)


def arguments(name: str) -> list[np.ndarray | int]:
    """Return what a kernel of ``toy_faults.cu`` takes before the number of its fault."""
    x = np.arange(4 * BLOCK, dtype=np.float32)
    return {
        "exchange": [x, np.empty_like(x)],
        "exchange_in_warp": [x.astype(np.int32), np.empty(BLOCK, np.int32)],
        "copy": [x[:100], np.empty(101, np.float32), 100],
        "shared": [np.empty(BLOCK, np.float32)],
        "unwritten": [np.empty(2 * BLOCK, np.float32)],
        "count": [np.zeros(BLOCK, np.int32), np.empty(BLOCK, np.int32)],
        "shuffled": [np.empty(BLOCK, np.int32)],
        "async": [x, np.empty_like(x)],
    }[name]


RACE = r"race on shared memory: (reads|writes) at .* what thread \d+ has (read|written) at .*"
# What a reader meets before the writer has had a turn.
EARLY = "reads shared memory at .*, which nobody has written in this block"
COPYING = "reads shared memory at .*, to which an asynchronous copy is under way"
FAULTS = [
    ("exchange", 1, f"{RACE}|{EARLY}"),
    ("exchange", 2, RACE),
    ("exchange_in_warp", 1, f"{RACE}|{EARLY}"),
    ("exchange_in_warp", 2, f"{RACE}|{EARLY}"),
    (
        "copy",
        1,
        r"writes 4 bytes of memory that end 4 bytes behind an operand of 400 bytes at",
    ),
    (
        "copy",
        2,
        r"reads 4 bytes of memory that end 4 bytes behind an operand of 400 bytes at",
    ),
    ("copy", 3, r"writes 4 bytes of memory that begin 4 bytes before an operand of 400 bytes at"),
    ("shared", 1, r"out of bounds: index 64 of a shared array of 64 at .*toy_faults\.cu:"),
    ("shared", 2, r"writes 4 bytes of memory that end 4 bytes behind the dynamic shared memory of"),
    ("unwritten", 1, EARLY),
    ("count", 1, r"race on global memory: (reads|writes) at .* what thread \d+ has written"),
    ("count", 2, r"race on global memory: (reads|changes atomically) at .* what thread \d+"),
    ("shuffled", 1, r"__shfl_xor_sync at .* reads lane \d+, which its mask does not name"),
    ("shuffled", 2, r"can never continue"),
    ("async", 1, COPYING),
    ("async", 2, f"{RACE}|{COPYING}|{EARLY}"),
]


@pytest.mark.parametrize(("name", "fault", "message"), FAULTS)
@pytest.mark.usefixtures("order")
def test_planted_fault_is_found(toys: Toys, name: str, fault: int, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        getattr(toys, name)(*arguments(name), fault)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in FAULTS}))
@pytest.mark.usefixtures("order")
def test_the_same_kernel_without_the_fault_passes(toys: Toys, name: str) -> None:
    getattr(toys, name)(*arguments(name), 0)


def test_a_race_names_both_lines(toys: Toys) -> None:
    with pytest.raises(RuntimeError) as error:
        toys.exchange(*arguments("exchange"), 2)
    lines = SOURCE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "exchange_kernel(" in line)
    write = 1 + next(i for i in range(start, start + 9) if "values[rank()] =" in lines[i])
    read = 1 + next(i for i in range(start, start + 9) if "y[rank()] =" in lines[i])
    if shutil.which("addr2line") is None:
        pytest.skip("addr2line is not on PATH")
    found = re.findall(r"toy_faults\.cu:(\d+)", str(error.value))
    assert [int(line) for line in found] == [write, read]


def test_the_next_launch_does_not_suffer(toys: Toys) -> None:
    for name, fault, message in FAULTS:
        with pytest.raises(RuntimeError, match=message):
            getattr(toys, name)(*arguments(name), fault)
        getattr(toys, name)(*arguments(name), 0)


@pytest.mark.usefixtures("undetected")
def test_it_can_be_switched_off(toys: Toys) -> None:
    toys.exchange(*arguments("exchange"), 2)


def test_unknown_setting_is_refused(toys: Toys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPTET_EMULATOR_DETECTOR", "maybe")
    with pytest.raises(RuntimeError, match="SEPTET_EMULATOR_DETECTOR must be on or off"):
        toys.exchange(*arguments("exchange"), 0)


@pytest.mark.slow
@pytest.mark.parametrize("barrier", [0, 1])
def test_block_sum_needs_both_of_its_barriers(build: Builder, tmp_path: Path, barrier: int) -> None:
    csrc = tmp_path / f"csrc_without_{barrier}"
    shutil.copytree(CSRC, csrc)
    header = csrc / "launch" / "cuda.cuh"
    head, sum_ = header.read_text().split("T block_sum(T value) {")
    pieces = sum_.split("__syncthreads();")
    assert len(pieces) == 3
    joints = ["__syncthreads();", "__syncthreads();"]
    joints[barrier] = ""
    changed = pieces[0] + joints[0] + pieces[1] + joints[1] + pieces[2]
    header.write_text(head + "T block_sum(T value) {" + changed)
    toys = build(HERE / "toy_kernels.cu", csrc=csrc)
    x = np.ones(256, np.float32)
    with pytest.raises(RuntimeError, match=f"{RACE}|{EARLY}"):
        toys.block_sum_float(x, np.empty_like(x), 1, 256)
