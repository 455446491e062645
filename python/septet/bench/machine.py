"""What is known of the machine a benchmark runs on, and what its probe says it can do."""

from __future__ import annotations

import functools
import os
import platform
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from septet import _host
from septet.bench.peers import version, versions


def facts(threads: int, command: str = "") -> dict[str, Any]:
    """Return the fields that all records of a run share.

    Args:
        threads: For torch and the kernels.
        command: The command line that asked for the run, if there was one.
    """
    build = _host.build_info()
    return {
        "run_id": uuid.uuid4().hex,
        "utc": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command,
        "host": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "isa": build["cpu_isa"],
            "ram_gb": _ram_gb(),
            **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        },
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "peers": versions(),
        "native": {
            key: build[key]
            for key in ("version", "compiler", "torch_abi_target", "built_with_torch")
        },
        "threads": threads,
        "load": _load(),
    }


def cpu_name() -> str:
    """Return the processor's name with family and model, which some names do not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    first = text.partition("\n\n")[0].splitlines()
    entries = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in first)}
    name = entries.get("model name", platform.machine())
    if "cpu family" in entries and "model" in entries:
        name += f" (family {entries['cpu family']}, model {entries['model']})"
    return name


@functools.cache
def fma_peak(threads: int, seconds: float) -> float:
    """Return float32 operations per second of multiply-adds in registers."""
    rate: float = _host.fma_peak(threads, seconds)
    return rate


def waiting(call: Callable[[], object], device: str) -> Callable[[], object]:
    """Return a call that ends when the device has done it."""
    if device != "cuda":
        return call

    def timed() -> object:
        result = call()
        torch.cuda.synchronize()
        return result

    return timed


@functools.cache
def matmul_peak(device: str, dtype: torch.dtype, size: int = 8192, repeats: int = 10) -> float:
    """Return operations per second of torch's product of two square matrices, the best of some.

    Args:
        device: Where.
        dtype: Of the matrices.
        size: Rows and columns.
        repeats: How many products are timed.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    multiply = waiting(lambda: a @ b, device)
    multiply()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def _load() -> float | None:
    """Return how many processes wanted to run in the last minute, before this run began."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _ram_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None
