"""The emoji checkpoint that comes with septet: what it draws is what was asked for."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

import septet
from septet.cli.emoji_judge import load_emoji, share_recognised

EMOJI = Path(str(resources.files("septet") / "assets" / "emoji"))


def draw(prompts, guidance_scale, seed):
    pipe = septet.LatentDiffusionPipeline.from_pretrained(EMOJI, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    images = pipe(
        list(prompts),
        num_inference_steps=25,
        guidance_scale=guidance_scale,
        generator=generator,
        output_type="np",
    ).images
    return images.transpose(0, 3, 1, 2)


def test_a_few_prompts():
    prompts = ("red apple", "blue heart", "green square", "lion face", "yellow star")
    assert share_recognised(draw(prompts, 4.0, 0), prompts) >= 0.6


@pytest.mark.slow
def test_all_prompts_and_guidance():
    prompts = load_emoji().prompts
    guided, plain = (
        np.mean([share_recognised(draw(prompts, scale, seed), prompts) for seed in range(2)])
        for scale in (4.0, 1.0)
    )
    assert guided >= 0.6
    assert guided > plain


def test_same_seed_same_picture_as_diffusers():
    diffusers = pytest.importorskip("diffusers")
    pictures = []
    for library in (septet, diffusers):
        pipe = library.LDMTextToImagePipeline.from_pretrained(str(EMOJI), torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        pictures.append(
            pipe(
                ["red apple", "a guitar"],
                num_inference_steps=10,
                guidance_scale=4.0,
                generator=generator,
                output_type="np",
            ).images
        )
    assert np.ptp(pictures[1]) > 0.9, "not a picture"
    assert np.abs(pictures[0] - pictures[1]).max() <= 1e-4


def test_the_checkpoint_is_small_and_says_where_its_data_comes_from():
    assert sum(path.stat().st_size for path in EMOJI.rglob("*") if path.is_file()) < 8_000_000
    licence = (resources.files("septet") / "assets" / "emoji_data.LICENSE.txt").read_text()
    assert "Noto Emoji" in licence
