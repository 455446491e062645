"""Large networks: the same code with tiny ones, and candidates in processes of their own."""

from __future__ import annotations

import functools
import os
import pickle

import pytest
import torch

from septet.bench import apart, large_rows, model_rows, peers, rows, runner
from septet.bench.rows import Candidate, Loaded, SeparateWorkload
from septet.models import AutoencoderKL, UNet2DConditionModel
from septet.testing.timing import Plan

QUICK = runner.Settings(Plan(seconds=0.01, rounds=1), 1)
TINY = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "sample_size": 8,
}
UNET = large_rows.LargeSpec(
    "tiny",
    UNet2DConditionModel,
    TINY
    | {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
        "cross_attention_dim": 12,
    },
    (2, 4, 8, 8),
)
VAE = large_rows.LargeSpec(
    "tiny.decode",
    AutoencoderKL,
    TINY
    | {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
    },
    (1, 4, 8, 8),
)
DIFFUSERS = ["diffusers (contiguous)", "diffusers (channels_last)"]
PREPARED = "septet, 10 prepared steps"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("spec", "own"), [(UNET, ["septet", PREPARED]), (VAE, ["septet"])], ids=["unet", "vae"]
)
@pytest.mark.parametrize("peer", [True, False])
def test_all_compute_the_same(spec, own, peer, monkeypatch):
    if peer:
        pytest.importorskip("diffusers")
    monkeypatch.setattr(peers, "PEERS", peers.PEERS[:2] if peer else ())
    monkeypatch.setattr(large_rows, "SPECS", (spec,))
    records = runner.run(large_rows.rows(), QUICK)
    names = (DIFFUSERS if peer else []) + own
    assert [record.implementation for record in records] == names
    baselines = DIFFUSERS if peer else own[:1]
    for record in records:
        record.to_json()
        assert record.accuracy.max_rel <= 1e-5
        assert record.accuracy.ref == f"{names[0]} in float32"
        assert record.latency.count == apart.CALLS
        assert record.calls_per_round == (10 if record.implementation == PREPARED else 1)
        is_baseline = record.implementation in baselines
        assert [s.over for s in record.speedups] == ([] if is_baseline else baselines)
        assert record.roofline.kind == "fma"


@torch.no_grad()
def test_prepared_steps_are_ten_evaluations(tmp_path, monkeypatch):
    large_rows.write_weights(UNET, tmp_path)
    seen = []
    plain = UNet2DConditionModel.denoise
    monkeypatch.setattr(
        UNet2DConditionModel, "denoise", lambda *a, **k: seen.append(k) or plain(*a, **k)
    )
    large_rows._load_prepared(UNET, tmp_path).call()
    assert [k["rows"] for k in seen] == [2] * 10


def test_the_measured_networks_are_the_published_ones():
    sizes = {}
    for spec in large_rows.SPECS:
        with torch.device("meta"):
            sizes[spec.name] = sum(p.numel() for p in spec.network(**spec.config).parameters())
    assert sizes == {
        "ldm-text2im-large": 872_300_484,
        "sd15": 859_520_964,
        "sd-vae.decode": 83_653_863,
    }


def test_flops_are_those_of_the_literature():
    # 803 GFLOP per sample of 64x64 for Stable Diffusion 1.5, a little less than a quarter each here
    spec = large_rows.SPECS[1]
    assert spec.shape == (2, 4, 32, 32)
    assert large_rows.num_flops(spec) == pytest.approx(2 * 803e9 / 4, rel=0.15)


def _nothing(folder):
    (folder / "w.safetensors").write_bytes(bytes(1000))


def _load_numbers(size, folder):
    numbers = torch.ones(size // 4)
    spike = torch.ones(3 * size // 4)  # what loading needs does not count
    del spike

    def result():
        twice = numbers * 2
        return [torch.tensor([float(twice[-1]), os.getpid(), torch.get_num_threads()])]

    return Loaded(result, result)


@pytest.mark.parametrize("stay", [False, True])
def test_a_candidate_has_a_process_of_its_own(stay):
    size = 100_000_000
    candidate = Candidate("A", functools.partial(_load_numbers, size), steps=5)
    workload = SeparateWorkload((candidate,), _nothing, "itself", stay=stay)
    plan = Plan(rounds=apart.CALLS, warmup_calls=1, warmup_seconds=0, batch_seconds=0)
    measured, reference = apart.measure(workload, 1, 1, plan)
    found = measured["A"]
    assert reference is found.outputs
    value, pid, threads = found.outputs[0].tolist()
    assert (value, threads) == (2, 1)
    assert pid != os.getpid()
    assert (len(found.timing.values), found.timing.calls_per_value) == (apart.CALLS, 5)
    assert found.setup_seconds > max(found.timing.values)
    assert found.memory.weights_bytes == 1000
    # the numbers and their double
    assert found.memory.peak_bytes == pytest.approx(2 * size, rel=0.15)


def test_a_killed_process_is_reported():
    with pytest.raises(RuntimeError, match="the process for greedy was killed"):
        apart.in_own_process("greedy", os._exit, 9)


def test_everything_can_be_sent_to_a_process(monkeypatch):
    monkeypatch.setattr(large_rows, "num_flops", lambda spec: 1)
    monkeypatch.setattr(model_rows, "num_flops", lambda spec: 1)
    for row in (*rows.select("large"), *rows.select("models")):
        workload = row.build()
        pickle.dumps((workload.candidates, workload.write_weights))


def test_visits_alternate(monkeypatch):
    turns = []

    def visit(who, function, *arguments):
        turns.append(who)
        return apart.Visit([float(len(turns))], [torch.zeros(1).numpy()], 0.5, 10 * len(turns))

    monkeypatch.setattr(apart, "in_own_process", visit)
    workload = SeparateWorkload((Candidate("A", _nothing), Candidate("B", _nothing)), _nothing, "A")
    found, _ = apart.measure(workload, 2, 1)
    assert turns == ["the weights", "A", "B", "A", "B"]
    assert found["A"].timing.values == (2.0, 4.0)
    assert found["B"].timing.values == (3.0, 5.0)
    assert found["B"].memory.peak_bytes == 50
