"""Compile every CUDA kernel for every architecture and write what the compiler says of them.

No GPU is needed. Warnings, spills and local memory are errors. ``make cuda-report`` writes
docs/cuda.md; whoever changes a kernel runs it and commits the page.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
TORCH = Path(torch.__file__).parent / "include"
COMMON = ["-std=c++20", f"-I{ROOT / 'csrc'}", "-isystem", str(TORCH), "-DUSE_CUDA"]
# As cmake/cuda.cmake has it.
NVCC = [
    *["nvcc", "-O3", "-DNDEBUG", "-fatbin", "-fmad=false", "-Werror=all-warnings", *COMMON],
    *["-Xptxas=-v,-warn-spills,-warn-lmem-usage", "-Xcompiler=-Wall,-Wextra"],
    *["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", "--keep"],
]

#: How many bytes of dynamic shared memory a kernel is launched with, as a C++ expression of its
#: template arguments; at most, where that depends on shapes.
DYNAMIC_SHARED = {
    "attention_mma_kernel": "MmaAttention<{}>::kSharedBytes",
    "attention_fma_kernel": "FmaAttention<{}>::kSharedBytes",
    "norm_slab_kernel": "kMostSlabBytes",
}


@dataclass(frozen=True)
class Architecture:
    """What a multiprocessor holds; CUDA C++ Programming Guide, "Compute Capabilities"."""

    threads: int
    blocks: int
    shared: int  # KiB
    registers: int = 65536

    def occupancy(self, block: int, registers: int, shared: int) -> float:
        """Return the share of the resident warps that blocks of a kernel can take.

        Args:
            block: Threads of a block.
            registers: Of a thread; allocated for a warp, 256 at a time.
            shared: Bytes of a block; CUDA takes another KiB of each.
        """
        warps = -(-block // 32)
        of_warp = -(-registers * 32 // 256) * 256
        by_registers = self.registers // of_warp // warps
        by_shared = self.shared * 1024 // (shared + 1024)
        resident = min(self.blocks, self.threads // (32 * warps), by_registers, by_shared)
        return resident * warps * 32 / self.threads


ARCHITECTURES = {
    80: Architecture(threads=2048, blocks=32, shared=164),
    86: Architecture(threads=1536, blocks=16, shared=100),
    89: Architecture(threads=1536, blocks=24, shared=100),
    90: Architecture(threads=2048, blocks=32, shared=228),
    100: Architecture(threads=2048, blocks=32, shared=228),
    120: Architecture(threads=1536, blocks=24, shared=100),
}


@dataclass
class Kernel:
    """A kernel with its template arguments, in all architectures.

    Attributes:
        family: The source that has it.
        name: Name and template arguments.
        block: Threads of a block, from the launch bounds.
        dynamic: Bytes of dynamic shared memory.
        registers: Per thread, by architecture.
        static: Bytes of static shared memory, by architecture.
        spilled: Bytes spilled or in local memory, by architecture.
    """

    family: str
    name: str
    block: int = 0
    dynamic: int = 0
    registers: dict[int, int] = field(default_factory=dict)
    static: dict[int, int] = field(default_factory=dict)
    spilled: dict[int, int] = field(default_factory=dict)


ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
BOUNDS = re.compile(r"\.entry (\w+)\([^{]*?\.maxntid (\d+)", re.DOTALL)


def parse_ptxas(family: str, text: str) -> dict[str, Kernel]:
    """Read what ``ptxas -v`` says; the keys are mangled names."""
    kernels: dict[str, Kernel] = {}
    kernel, arch = None, 0
    for line in text.splitlines():
        if entry := ENTRY.search(line):
            kernel = kernels.setdefault(entry[1], Kernel(family, entry[1]))
            arch = int(entry[2])
        elif kernel and (spills := SPILLS.search(line)):
            kernel.spilled[arch] = sum(int(count) for count in spills.groups())
        elif kernel and (used := USED.search(line)):
            kernel.registers[arch] = int(used[1])
            kernel.static[arch] = int(used[2] or 0)
    return kernels


def short_name(demangled: str) -> str:
    """Strip namespaces, return type and parameters: ``norm_kernel<float16>``."""
    name = re.sub(r"\(anonymous namespace\)::|\w+::|\(int\)", "", demangled)
    name = name.removeprefix("void ")
    return re.sub(r"\(.*\)$", "", name)


def compile_family(source: Path, architectures: Iterable[int]) -> list[Kernel]:
    """Compile one source for all architectures.

    Raises:
        SystemExit: If the compiler complains.
    """
    targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in architectures]
    with tempfile.TemporaryDirectory() as folder:
        command = [*NVCC, *targets, f"--keep-dir={folder}", str(source)]
        command += ["-o", f"{folder}/{source.stem}.fatbin"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            complaints = [x for x in result.stderr.splitlines() if not x.startswith("ptxas info")]
            sys.exit(f"{source.name} does not compile cleanly:\n" + "\n".join(complaints[-30:]))
        intermediate = "".join(path.read_text() for path in Path(folder).glob("*.ptx"))
    kernels = parse_ptxas(source.stem, result.stdout + result.stderr)
    names = list(kernels)
    plain = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    for name, demangled in zip(names, plain.stdout.splitlines(), strict=True):
        kernels[name].name = short_name(demangled)
    for name, threads in BOUNDS.findall(intermediate):
        kernels[name].block = int(threads)
    if "septet_dynamic_shared" in intermediate:
        set_dynamic_shared(source, list(kernels.values()))
    return list(kernels.values())


def set_dynamic_shared(source: Path, kernels: list[Kernel]) -> None:
    """Ask the C++ compiler how much dynamic shared memory the kernels of a source get."""
    asked = [k for k in kernels if k.name.split("<")[0] in DYNAMIC_SHARED]
    if not asked:
        sys.exit(f"{source.name} uses dynamic shared memory: add its kernels to DYNAMIC_SHARED")
    sizes = []
    for kernel in asked:
        base, _, arguments = kernel.name.partition("<")
        sizes.append(DYNAMIC_SHARED[base].format(arguments.removesuffix(">")))
    program = f'#include "{source}"\nusing namespace septet;\nextern "C" '
    program += f"const unsigned long long septet_sizes[] = {{{', '.join(sizes)}}};"
    emulated = ["-DSEPTET_EMULATED", f"-I{ROOT / 'tests' / 'emulation' / 'include'}"]
    flags = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]
    # Nothing has to run: the constants are read from the assembler's source.
    command = ["g++", *COMMON, *emulated, *flags, "-w", "-S", "-x", "c++", "-", "-o", "-"]
    result = subprocess.run(command, input=program, capture_output=True, text=True, check=True)
    values = re.findall(r"\.quad\s+(\d+)", result.stdout.split("septet_sizes:")[1])
    for kernel, size in zip(asked, values[: len(asked)], strict=True):
        kernel.dynamic = int(size)


def table(kernels: list[Kernel], architectures: list[int]) -> list[str]:
    """Return the lines of the table."""
    heads = ["kernel", "threads", "shared memory", *(f"sm_{sm}" for sm in architectures)]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for kernel in kernels:
        static = max(kernel.static.values())
        shared = f"{static} + {kernel.dynamic}" if kernel.dynamic else f"{static}"
        cells = [f"`{kernel.name}`", str(kernel.block), shared]
        for sm in architectures:
            total = kernel.static[sm] + kernel.dynamic
            share = ARCHITECTURES[sm].occupancy(kernel.block, kernel.registers[sm], total)
            spill = f", **{kernel.spilled[sm]} B spilled**" if kernel.spilled[sm] else ""
            cells.append(f"{kernel.registers[sm]}, {share:.0%}{spill}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def page(kernels: list[Kernel], architectures: list[int], compiler: str) -> str:
    """Return the whole page."""
    spilling = sorted({k.name for k in kernels if any(k.spilled.values())})
    lines = [
        "# What the CUDA compiler says of our kernels",
        "",
        "Generated by `make cuda-report`; do not edit. Nothing was measured: no kernel has run.",
        "Measurements stand in [performance.md](performance.md), which `septet bench` writes.",
        "",
        f"Compiler: nvcc {compiler}, `-O3 -fmad=false`, all warnings as errors. "
        f"{len(kernels)} kernels, {len(architectures)} architectures.",
        "",
        "A cell has the registers of a thread, and the theoretical occupancy: the share of the",
        "resident warps of a multiprocessor that registers, shared memory and the limits on",
        "threads and blocks allow. Threads are those of a block, by its launch bounds. Shared",
        "memory is in bytes, static + dynamic, the latter at most.",
        "",
        f"**Spills and local memory:** {', '.join(spilling) or 'none'}.",
        "",
    ]
    for family in dict.fromkeys(kernel.family for kernel in kernels):
        lines += [f"## {family}", ""]
        lines += [*table([k for k in kernels if k.family == family], architectures), ""]
    return "\n".join(lines)


def nvcc_version() -> str:
    """Return the version of nvcc."""
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"V([\d.]+)", text)
    return match[1] if match else "unknown"


def main() -> None:
    """Compile, write the page, and fail if a kernel spills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="the page to write; printed if not given")
    parser.add_argument("--archs", type=int, nargs="+", default=list(ARCHITECTURES))
    arguments = parser.parse_args()
    kernels = []
    for source in sorted((ROOT / "csrc" / "ops").glob("*.cu")):
        print(f"compiling {source.name}", file=sys.stderr, flush=True)
        found = compile_family(source, arguments.archs)
        kernels += sorted(found, key=lambda kernel: kernel.name)
    text = page(kernels, arguments.archs, nvcc_version())
    if arguments.output is None:
        print(text)
    else:
        arguments.output.write_text(text)
    if spilling := [kernel.name for kernel in kernels if any(kernel.spilled.values())]:
        sys.exit(f"these kernels spill registers or use local memory: {', '.join(spilling)}")


if __name__ == "__main__":
    main()
