"""The suite for a GPU, as far as a CPU can run it: everything but its speed."""

from __future__ import annotations

import pytest
import torch

from captured import PretendGraphs
from septet.bench import cuda_rows, machine, rows, runner
from septet.bench.attention_rows import AttentionSpec
from septet.bench.model_rows import ModelSpec
from septet.cli.main import main
from septet.testing.cases import all_cases
from septet.testing.timing import Plan

QUICK = runner.Settings(Plan(rounds=1, warmup_calls=1, warmup_seconds=0, batch_seconds=0), 1)
CASES = {(case.op, case.name): case for case in all_cases()}
TINY = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


def measured(workload):
    """Run a workload; return the records by implementation."""
    row = rows.Row("cuda", "x", {}, lambda: workload)
    return {record.implementation: record for record in runner.run([row], QUICK)}


def test_every_dtype_and_shape_has_a_row():
    names = [row.name for row in rows.select("cuda")]
    assert len(names) == len(set(names))
    for part in ("step/ddpm/float16/", "philox_normal", "attention/square", "cifar10/float16/64x"):
        assert any(part in name for name in names)
    assert not {row.name for row in rows.select()} & set(names)


@pytest.mark.parametrize(("op", "name"), cuda_rows._OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_ops(op, name, dtype, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    found = measured(cuda_rows.build_op(CASES[op, name], dtype, 2000, "cpu"))
    assert list(found) == ["eager", "compiled", "septet"]
    assert found["septet"].roofline.kind == "copy"
    assert found["septet"].accuracy.max_rel < 1e-2
    assert found["septet"].speedups


@pytest.mark.parametrize("prefix", [0, 5])
def test_attention(prefix):
    spec = AttentionSpec("x", 1, 20, 20, 2, 16, prefix)
    found = measured(cuda_rows.build_attention(spec, torch.float32, "cpu"))
    assert {"septet", "sdpa (math)"} <= set(found)
    assert all(record.accuracy.max_rel < 1e-5 for record in found.values())
    assert found["septet"].roofline.amount == spec.num_flops


def test_network_and_its_captured_step():
    graphs = PretendGraphs()
    spec = ModelSpec("tiny", TINY, (1, 3, 8, 8))
    workload = cuda_rows.build_model(spec, torch.float32, "cpu", graphs)
    for _ in range(3 * cuda_rows._STEPS):  # through several runs of the loop
        workload.implementations[-1].call()
    assert graphs.captures == 1
    found = measured(workload)
    assert list(found)[-2:] == ["septet", "septet (graph)"]
    assert all(record.accuracy.max_rel < 1e-5 for record in found.values())


def test_the_ceiling_is_measured():
    assert machine.matmul_peak("cpu", torch.float32, size=64, repeats=2) > 1e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "torch finds no CUDA device"),
        (["--suite", "ops"], "no --suite beside it"),
    ],
)
def test_without_a_gpu(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--device", "cuda", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_list(capsys):
    assert main(["bench", "--device", "cuda", "--list", "--filter", "philox"]) == 0
    assert capsys.readouterr().out.count("cuda/") == 6
