"""``septet env``: what a bug report needs to say about the machine."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

import septet
from septet.backend import current_backend
from septet.errors import LibraryError
from septet.ops import _library

_PACKAGES = ("numpy", "safetensors", "Pillow", "transformers", "diffusers")


def environment() -> dict[str, Any]:
    """Collect versions, hardware and the state of the compiled libraries; never fails."""
    return {
        "septet": septet.__version__,
        "python": platform.python_version(),
        # names the build too, unlike the metadata of the package
        "torch": torch.__version__,
        **{name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "torch_cuda": torch.version.cuda,
        "cuda_devices": _cuda_devices(),
        "backend": current_backend(),
        "libraries": _libraries(),
        "build": _build_info(),
    }


def print_environment(*, as_json: bool) -> None:
    """Print the report, as lines or as one JSON object."""
    report = environment()
    if as_json:
        print(json.dumps(report, indent=2))
        return
    for key, value in report.items():
        if isinstance(value, dict):
            for name, entry in value.items():
                print(f"{key}.{name}: {entry}")
        else:
            print(f"{key}: {value}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cuda_devices() -> list[str]:
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _libraries() -> dict[str, str]:
    """Say of every compiled library whether it is there and whether it loads."""
    return {name: _library_state(name) for name in ("_C", "_C_cuda")}


def _library_state(name: str) -> str:
    if not _library.library_path(name).is_file():
        return "not installed"
    if name == "_C_cuda" and torch.version.cuda is None:
        return "installed, but this torch has no CUDA"
    try:
        _library.load(name)
    except LibraryError as error:
        return f"does not load: {error}"
    return "loaded"


def _build_info() -> dict[str, Any] | None:
    try:
        info: dict[str, Any] = importlib.import_module("septet._host").build_info()
    except ImportError:
        return None
    return info
