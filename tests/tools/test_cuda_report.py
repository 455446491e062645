"""The page about the compiled kernels: reading ptxas, occupancy, the table. No nvcc is needed."""

from __future__ import annotations

import pytest

from cuda_report import ARCHITECTURES, Kernel, page, parse_ptxas, short_name, table

PTXAS = """\
ptxas info    : 28 bytes gmem
ptxas info    : Compiling entry function '_Z1aPf' for 'sm_80'
ptxas info    : Function properties for _Z1aPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 128 bytes smem
ptxas info    : Compile time = 144.566 ms
ptxas info    : Compiling entry function '_Z1bPf' for 'sm_80'
ptxas info    : Function properties for _Z1bPf
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
ptxas info    : Compiling entry function '_Z1aPf' for 'sm_90'
ptxas info    : Function properties for _Z1aPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, used 1 barriers, 256 bytes smem, 400 bytes cmem[0]
"""


def test_what_ptxas_says():
    kernels = parse_ptxas("x", PTXAS)
    assert list(kernels) == ["_Z1aPf", "_Z1bPf"]
    first, second = kernels.values()
    assert first.registers == {80: 32, 90: 24}
    assert first.static == {80: 128, 90: 256}
    assert first.spilled == {80: 0, 90: 0}
    assert (second.registers, second.static, second.spilled) == ({80: 255}, {80: 0}, {80: 36})


@pytest.mark.parametrize(
    ("arch", "block", "registers", "shared", "resident"),
    [
        (80, 256, 32, 0, 8),  # threads: 2048 / 256
        (80, 128, 168, 0, 3),  # registers: 65536 / (4 warps of 168 * 32)
        (90, 512, 36, 12304, 3),  # 36 registers are allocated as 40
        (80, 128, 32, 64512, 2),  # shared memory: 164 KiB / (63 + 1) KiB
        (86, 32, 16, 0, 16),  # blocks
    ],
)
def test_occupancy(arch, block, registers, shared, resident):
    device = ARCHITECTURES[arch]
    share = device.occupancy(block, registers, shared)
    assert share == resident * block / device.threads


def test_names_without_namespaces():
    mangled = "void septet::(anonymous namespace)::step_kernel<septet::generic::float16, (int)8>"
    assert short_name(f"{mangled}(septet::StepArgs)") == "step_kernel<float16, 8>"


def test_a_spill_shows():
    clean = Kernel("x", "a<float>", 256, 0, {80: 32}, {80: 128}, {80: 0})
    wasteful = Kernel("x", "b<float>", 128, 1024, {80: 255}, {80: 0}, {80: 36})
    assert table([clean], [80])[2] == "| `a<float>` | 256 | 128 | 32, 100% |"
    assert "**36 B spilled**" in table([wasteful], [80])[2]
    assert "**Spills and local memory:** none." in page([clean], [80], "13.0")
    assert "**Spills and local memory:** b<float>." in page([clean, wasteful], [80], "13.0")
