"""The GLIDE rows: the original and septet compute the same step."""

from __future__ import annotations

import torch

import tiny_networks
from septet.bench import apart, glide_rows, runner
from septet.models import GlideSuperResolutionUNet, GlideTextToImageUNet
from septet.testing.timing import Plan

TINY = tiny_networks.GLIDE
QUICK = runner.Settings(Plan(rounds=1, warmup_calls=1, warmup_seconds=0, batch_seconds=0), 1)


def test_all_compute_the_same_step(monkeypatch):
    specs = tuple(
        glide_rows.GlideSpec(spec.name, spec.network, spec.respacing, TINY)
        for spec in glide_rows.SPECS
    )
    monkeypatch.setattr(glide_rows, "SPECS", specs)
    monkeypatch.setattr(apart, "in_own_process", lambda _, function, *args: function(*args))
    records = runner.run(glide_rows.rows(), QUICK)
    assert [record.implementation for record in records] == [
        "original",
        "original, text cached",
        "septet, prepared every step",
        "septet",
    ] * 2
    for record in records:
        assert record.accuracy.max_rel <= 1e-5
        assert record.accuracy.ref == "the original in float32"


def test_the_networks_are_the_published_ones():
    base, upsampler = glide_rows.SPECS
    assert (base.network, upsampler.network) == (GlideTextToImageUNet, GlideSuperResolutionUNet)
    assert base.config == upsampler.config == {}
    names = [row.name for row in glide_rows.rows()]
    assert names == ["glide-base.step/1x3x64x64", "glide-upsampler.step/1x3x256x256"]


@torch.no_grad()
def test_the_step_depends_on_what_goes_in(tmp_path):
    spec = glide_rows.GlideSpec("tiny", GlideTextToImageUNet, "100", TINY)
    glide_rows._write_weights(spec, tmp_path)
    loaded = glide_rows._load(spec, (1, 3, 8, 8), "septet", tmp_path)
    first = loaded.result()[0]
    (step,) = loaded.call.args
    step.sample, step._prepared = step.sample * 0.5, None
    assert (step.prepared()[0] - first).abs().max() > 1e-3
