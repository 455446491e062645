"""The digits checkpoint that comes with septet: the same pictures as diffusers draws from it."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import torch

import septet

diffusers = pytest.importorskip("diffusers")
DIGITS = resources.files("septet") / "assets" / "digits"

RUNS = [
    ("DDPMPipeline", {"num_inference_steps": 40}),
    ("DDIMPipeline", {"num_inference_steps": 50}),
    ("DDIMPipeline", {"num_inference_steps": 20, "eta": 0.7}),
    ("PNDMPipeline", {"num_inference_steps": 50}),
    pytest.param("DDPMPipeline", {"num_inference_steps": 1000}, marks=pytest.mark.slow),
]


def _draw(library, name, options):
    ours = library is septet
    scheduler = None
    if name == "PNDMPipeline":
        folder = str(DIGITS / "scheduler")
        config = library.DDPMScheduler.from_pretrained(folder).config
        scheduler = library.PNDMScheduler.from_config(config)
    override = {} if scheduler is None else {"scheduler": scheduler}
    pipe = getattr(library, name).from_pretrained(str(DIGITS), **override)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    result = pipe(batch_size=2, generator=generator, output_type="np", **options)
    assert ours or type(pipe).__module__.startswith("diffusers")
    return result.images


@pytest.mark.parametrize(("name", "options"), RUNS)
def test_same_seed_same_digits(name, options):
    ours, theirs = _draw(septet, name, options), _draw(diffusers, name, options)
    assert ours.shape == theirs.shape == (2, 16, 16, 1)
    assert np.ptp(theirs) > 0.9, "not a picture"
    assert np.abs(ours - theirs).max() <= 1e-4


def test_the_checkpoint_is_small_and_says_where_its_data_comes_from():
    weights = DIGITS / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 2_000_000
    licence = (resources.files("septet") / "assets" / "digits_data.LICENSE.txt").read_text()
    assert "Alpaydin" in licence
