"""All instruction sets compute the same bits, from one source."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from septet import _host
from septet.testing.cases import all_cases

SCRIPT = """
import sys, torch
from septet.testing.cases import all_cases
results = {}
for case in all_cases():
    for dtype in case.dtypes:
        arguments = case.inputs(dtype)
        result = case.face(**arguments)
        tensors = [t for t in (result if isinstance(result, tuple) else (result,)) if t is not None]
        results[f"{case.id}-{dtype}"] = tensors + [arguments[name] for name in case.changed]
torch.save(results, sys.argv[1])
"""


def _run(isa, path):
    environment = {**os.environ, "SEPTET_CPU_ISA": isa}
    command = [sys.executable, "-c", SCRIPT, str(path)]
    subprocess.run(command, env=environment, check=True)
    return torch.load(path)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    return _run("baseline", tmp_path_factory.mktemp("isa") / "baseline.pt")


@pytest.mark.parametrize("isa", [i for i in _host.build_info()["cpu_isas"] if i != "baseline"])
def test_instruction_set_gives_the_baseline_bits(isa, baseline, tmp_path):
    results = _run(isa, tmp_path / "results.pt")
    assert results.keys() == baseline.keys()
    assert len(results) == sum(len(case.dtypes) for case in all_cases())
    for name, tensors in results.items():
        for a, b in zip(tensors, baseline[name], strict=True):
            assert torch.equal(a.nan_to_num(7), b.nan_to_num(7)), name


def test_unknown_instruction_set_is_refused():
    result = subprocess.run(
        [sys.executable, "-c", "from septet import _host; _host.build_info()"],
        env={**os.environ, "SEPTET_CPU_ISA": "mmx"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "SEPTET_CPU_ISA must be auto or one of baseline" in result.stderr
    assert "got 'mmx'" in result.stderr
