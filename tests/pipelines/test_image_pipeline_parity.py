"""The three image pipelines against those of diffusers 0.42, same weights and seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import septet

diffusers = pytest.importorskip("diffusers")

CASES = [
    ("DDPMPipeline", {"num_inference_steps": 20}),
    ("DDIMPipeline", {"num_inference_steps": 10}),
    ("DDIMPipeline", {"num_inference_steps": 10, "eta": 0.5}),
    ("DDIMPipeline", {"num_inference_steps": 10, "eta": 1.0, "use_clipped_model_output": True}),
    ("PNDMPipeline", {"num_inference_steps": 6}),
]


def make(library, name, unet, scheduler=None):
    scheduler = scheduler or library.DDPMScheduler(variance_type="fixed_large")
    pipeline = getattr(library, name)(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generator(kind):
    if kind == "one":
        return torch.Generator().manual_seed(3)
    return [torch.Generator().manual_seed(i) for i in range(2)]


def assert_same_images(ours, theirs, kind="one", **call):
    results = [
        pipeline(batch_size=2, generator=generator(kind), output_type="np", **call).images
        for pipeline in (ours, theirs)
    ]
    assert results[0].shape == results[1].shape == (2, 8, 8, 3)
    np.testing.assert_allclose(*results, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["one", "list"])
@pytest.mark.parametrize(("name", "call"), CASES)
def test_same_seed_same_images(name, call, kind, unet, diffusers_unet):
    ours, theirs = make(septet, name, unet), make(diffusers, name, diffusers_unet)
    assert_same_images(ours, theirs, kind, **call)


@pytest.mark.parametrize(("name", "call"), CASES)
def test_diffusers_components_in_our_pipelines(name, call, diffusers_unet):
    theirs = make(diffusers, name, diffusers_unet)
    ours = make(septet, name, diffusers_unet, theirs.scheduler)
    assert_same_images(ours, theirs, **call)


@pytest.mark.parametrize(("name", "call"), CASES)
def test_our_components_in_diffusers_pipelines(name, call, unet, diffusers_unet):
    theirs = make(diffusers, name, diffusers_unet)
    hybrid = make(diffusers, name, diffusers_unet)
    hybrid.scheduler = getattr(septet, type(theirs.scheduler).__name__).from_config(
        theirs.scheduler.config
    )
    assert_same_images(hybrid, theirs, **call)


def test_ddpm_pipeline_takes_other_schedulers(unet, diffusers_unet):
    ours = make(septet, "DDPMPipeline", unet, septet.DDIMScheduler())
    theirs = make(diffusers, "DDPMPipeline", diffusers_unet, diffusers.DDIMScheduler())
    assert_same_images(ours, theirs, num_inference_steps=7)


def test_global_generator(unet, diffusers_unet):
    ours, theirs = (
        make(septet, "DDPMPipeline", unet),
        make(diffusers, "DDPMPipeline", diffusers_unet),
    )
    with torch.random.fork_rng():
        images = []
        for pipeline in (ours, theirs):
            torch.manual_seed(0)
            images.append(pipeline(num_inference_steps=4, output_type="np").images)
    np.testing.assert_allclose(*images, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["DDPMPipeline", "DDIMPipeline", "PNDMPipeline"])
def test_saved_folders_are_read_by_both(name, unet, diffusers_unet, tmp_path):
    ours, theirs = make(septet, name, unet), make(diffusers, name, diffusers_unet)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    pairs = [
        (getattr(septet, name).from_pretrained(tmp_path / "theirs"), theirs),
        (ours, getattr(diffusers, name).from_pretrained(tmp_path / "ours")),
    ]
    for pair in pairs:
        for pipeline in pair:
            pipeline.set_progress_bar_config(disable=True)
        assert_same_images(*pair, num_inference_steps=5)
