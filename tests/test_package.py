"""The installed package: its version, its binaries' promises, its CUDA code."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import septet
from septet import _host

FOLDER = Path(septet.__file__).parent
ROOT = Path(__file__).resolve().parent.parent


def test_one_version():
    assert septet.__version__ == importlib.metadata.version("septet")
    assert _host.build_info()["version"] == septet.__version__


def test_libraries_keep_to_the_stable_abi():
    audit = Path(sys.executable).parent / "torch-abi-audit"
    report = subprocess.run([audit, str(FOLDER)], capture_output=True, text=True, check=True).stdout
    libraries = [name.name for name in FOLDER.glob("_C*.so")]
    assert "_C.so" in libraries
    for name in libraries:
        (line,) = (line for line in report.splitlines() if f" {name} " in line)
        assert "STABLE" in line
        assert "unstable=0" in line
        assert "min-torch=2.10.0" in line


def test_built_against_this_torch_or_a_compatible_one():
    assert _host.build_info()["torch_abi_target"] == "2.10"
    assert torch.__version__ >= "2.10"


@pytest.fixture
def nvcc():
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("nvcc compiles the CUDA sources")
    return compiler


def test_cuda_sources_were_compiled(nvcc):
    # Without warnings or spills: the build stops at either, see the next test.
    assert (FOLDER / "_C_cuda.so").is_file()
    assert {"80-real", "90-real"} <= set(_host.build_info()["cuda_archs"].split())


def test_the_build_stops_at_local_memory(nvcc, tmp_path):
    flags = re.findall(r"-Xptxas=\S+|-Werror=\S+", (ROOT / "cmake" / "cuda.cmake").read_text())
    assert len(flags) == 2
    source = tmp_path / "spill.cu"
    source.write_text(
        "__global__ void k(float* out, int i) {\n"
        "  float a[64];\n"
        "  for (int j = 0; j < 64; ++j) a[(j * i) % 64] = out[j];\n"
        "  out[0] = a[i];\n"
        "}\n"
    )
    command = [nvcc, "-arch=sm_80", "-c", str(source), "-o", str(tmp_path / "spill.o")]
    assert subprocess.run(command).returncode == 0
    failed = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert failed.returncode != 0
    assert "ocal memory" in failed.stdout + failed.stderr
