"""Rows: large versions of case rows, bytes, and implementations that agree with each other."""

from __future__ import annotations

import pytest
import torch

import tiny_networks
from septet.bench import loop_rows, model_rows, op_rows, peers, rows, runner, scheduler_rows
from septet.models import UNet2DModel
from septet.ops import NoiseKind, StepRow
from septet.testing.cases import all_cases
from septet.testing.timing import Plan

QUICK = runner.Settings(Plan(rounds=1, warmup_calls=1, warmup_seconds=0, batch_seconds=0), 1)
CASES = {(case.op, case.name): case for case in all_cases()}


def test_names_are_unique_and_suites_complete():
    suites = {suite: rows.select(suite) for suite in rows.SUITES}
    names = [row.name for chosen in suites.values() for row in chosen]
    assert len(set(names)) == len(names)
    for suite, chosen in suites.items():
        assert {row.suite for row in chosen} == {suite}


def test_large_rows_are_asked_for_by_name():
    names = [row.name for row in rows.select()]
    suites = ("ops", "models", "pipelines", "startup")
    assert names == [row.name for suite in suites for row in rows.select(suite)]


def test_every_op_is_measured():
    measured = {row.case["op"] for row in rows.select("ops") if "op" in row.case}
    assert measured == {case.op for case in CASES.values()}


def test_filter_is_a_regular_expression():
    names = [row.name for row in rows.select("ops", r"^dd[ip]m\.step/1x")]
    assert names == ["ddim.step/1x3x32x32", "ddpm.step/1x3x32x32"]
    with pytest.raises(ValueError, match="regular expression"):
        rows.select("ops", "(")
    with pytest.raises(ValueError, match="suite"):
        rows.select("everything")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("name", "steps"), loop_rows.SPECS)
def test_loops_agree(name, steps, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.setattr(loop_rows, "SPECS", ((name, steps),))
    monkeypatch.setattr(loop_rows, "SHAPES", ((2, 3, 8, 8),))
    theirs, ours = runner.run(loop_rows.rows(), QUICK)
    assert (theirs.implementation, ours.implementation) == ("diffusers", "septet")
    assert ours.accuracy.max_rel < 2e-4
    assert [speedup.over for speedup in ours.speedups] == ["diffusers"]


@pytest.mark.parametrize("entry", op_rows.ENLARGED, ids=lambda e: f"{e.op}-{e.name}")
def test_enlarged_cases_are_the_same_call(entry):
    small = CASES[entry.op, entry.name].inputs(torch.float32)
    large = op_rows.enlarged(small, 40_000)
    shape = op_rows.lead_shape(large)
    assert shape == op_rows.grown(op_rows.lead_shape(small), 40_000)
    assert 20_000 < torch.Size(shape).numel() < 80_000
    assert large.keys() == small.keys()
    for name, value in small.items():
        if isinstance(value, torch.Tensor):
            axes = tuple(slice(size) for size in value.shape)
            assert torch.equal(large[name][axes], value)
            order = sorted(range(value.dim()), key=value.stride, reverse=True)
            assert large[name].permute(order).is_contiguous()


def test_enlarged_cases_are_correct():
    case = CASES["step", "plms_channels_last"]
    assert op_rows.enlarged(case.inputs(torch.float32), 1)["sample"].shape == (2, 3, 9, 7)
    small = case.face(**case.inputs(torch.float32))
    large = case.face(**op_rows.enlarged(case.inputs(torch.float32), 2 * 3 * 9 * 7 * 9))
    assert torch.equal(large, small.repeat(1, 1, 3, 3))


def _bytes(name):
    arguments = CASES["step", name].inputs(torch.float32)
    return op_rows.TRAFFIC["step"](arguments, 0) / arguments["sample"].nbytes


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("ddpm", 3),  # sample, output, noise
        ("ddim", 2),
        ("plms", 2 + 3 + 1),  # three slots read, one written
        ("runge_kutta_first", 2 + 2),
        ("runge_kutta_last", 2 + 4),
        ("glide", 1 + 2 + 1 + 1),  # both halves of one output, one of the other
        ("latent_diffusion", 3),
        ("philox_per_sample", 2),
        ("grad_tts_ode", 3 + 1 / 8),  # no noise although some is given; the mask has one channel
    ],
)
def test_bytes_of_a_step(name, tensors):
    assert _bytes(name) == pytest.approx(tensors)


def test_bytes_agree_with_the_row():
    for (op, name), case in CASES.items():
        if op == "step":
            arguments = case.inputs(torch.float32)
            row = StepRow.from_list(arguments["table"][arguments["row"]].tolist())
            if row.noise_kind == NoiseKind.NONE and "noise" in arguments:
                without = {k: v for k, v in arguments.items() if k != "noise"}
                count = op_rows.TRAFFIC["step"]
                assert count(arguments, 0) == count(without, 0), name


def _check(records, tolerance):
    assert records
    for record in records:
        record.to_json()
        if record.accuracy is not None:
            assert record.accuracy.max_rel < tolerance, record.implementation
    assert any(record.speedups for record in records)
    assert all(record.roofline is not None for record in records)


@pytest.mark.parametrize("spec", scheduler_rows.SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize("peer", [True, False])
def test_scheduler_steps_agree(spec, peer, monkeypatch):
    if peer:
        pytest.importorskip("diffusers")
    monkeypatch.setattr(scheduler_rows, "has_diffusers", lambda: peer)
    monkeypatch.setattr(scheduler_rows, "SPECS", (spec,))
    monkeypatch.setattr(scheduler_rows, "SHAPES", ((2, 3, 8, 8),))
    records = runner.run(scheduler_rows.rows(), QUICK)
    _check(records, 1e-5)
    names = [record.implementation for record in records]
    expected = (["diffusers"] if peer else []) + ["eager", "septet"]
    assert names == expected + ["septet (Philox)"] * (spec.noise == "drawn")
    fused = next(record for record in records if record.implementation == "septet")
    assert [s.over for s in fused.speedups] == expected[:-1]


@pytest.mark.parametrize("entry", op_rows.ENLARGED, ids=lambda e: f"{e.op}-{e.name}")
def test_operators_agree(entry, monkeypatch):
    small = op_rows.Enlarged(entry.op, entry.name, entry.dtypes, elements=2000)
    monkeypatch.setattr(op_rows, "ENLARGED", (small,))
    found = [row for row in op_rows.rows() if row.case["row"] == entry.name]
    for row in found:
        _check(runner.run([row], QUICK), 1e-5 if row.case["dtype"] == "float32" else 2e-2)


def test_families_may_list_their_own_large_rows(monkeypatch):
    from septet.testing.cases import step

    monkeypatch.setattr(step, "LARGE", [CASES["step", "vector"]], raising=False)
    found = [row for row in op_rows.rows() if row.case["row"] == "vector"]
    assert {row.case["dtype"] for row in found} == {"float32", "float16", "bfloat16"}
    assert found[0].case["shape"] == "7"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("count", [0, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_networks_agree(count, monkeypatch):
    if count:
        pytest.importorskip("diffusers")
    config = {**tiny_networks.UNET, "attention_head_dim": 4}
    monkeypatch.setattr(peers, "PEERS", peers.PEERS[:count])
    monkeypatch.setattr(model_rows, "SPECS", (model_rows.ModelSpec("tiny", config, (2, 3, 8, 8)),))
    records = runner.run(model_rows.rows(), QUICK)
    _check(records, 1e-4)
    names = [peer.name for peer in peers.PEERS if peer.missing() is None]
    own = ["contiguous", "channels_last", "SEPTET_CONV=direct"]
    assert [r.implementation for r in records] == names + [f"septet ({how})" for how in own]
    assert all(record.roofline.kind == "fma" for record in records)
    for record in records[len(names) or 1 :]:
        assert [s.over for s in record.speedups] == (names or ["septet (contiguous)"])
        assert record.setup_seconds > 0
        assert record.memory is not None


def test_peers_say_what_they_lack(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: name != "openvino" or None)
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    missing = {peer.name: peer.missing() for peer in peers.PEERS}
    assert missing["OpenVINO"] == "openvino is not installed"
    assert missing["torch.compile (freezing)"] == "there is no C++ compiler"
    network = peers.Network("diffusers:UNet2DModel", {}, tuple)
    assert [c.name for c in peers.candidates(network)] == [
        "diffusers (contiguous)",
        "diffusers (channels_last)",
    ]


def test_large_networks_are_not_compiled(monkeypatch):
    monkeypatch.setattr(peers.Peer, "missing", lambda peer: None)
    network = peers.Network("diffusers:UNet2DModel", {}, tuple)
    names = [candidate.name for candidate in peers.candidates(network, is_large=True)]
    assert "torch.compile (freezing)" not in names
    assert "OpenVINO" in names


def test_the_measured_network_is_that_of_the_paper():
    with torch.device("meta"):
        model = UNet2DModel(**model_rows.DDPM_CIFAR10)
    assert sum(p.numel() for p in model.parameters()) == 35_746_307
    (spec, *_, large) = model_rows.SPECS
    assert spec.shape == (1, 3, 32, 32)
    # 6.1 and 248.7 billion multiply-adds in the literature, attention not counted
    assert model_rows.num_flops(spec) / 2 == pytest.approx(6.2e9, rel=0.03)
    assert model_rows.num_flops(large) / 2 == pytest.approx(248.7e9, rel=0.03)
    with torch.device("meta"):
        model = UNet2DModel(**model_rows.DDPM_256)
    assert sum(p.numel() for p in model.parameters()) == 113_673_219


def test_threads_are_set_and_restored(monkeypatch):
    before = torch.get_num_threads()
    seen = []
    monkeypatch.setattr(runner, "_measure", lambda *a: [seen.append(torch.get_num_threads())])
    runner.run([None], runner.Settings(QUICK.plan, before + 1))
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
