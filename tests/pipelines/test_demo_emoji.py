"""The emoji checkpoint that comes with septet: what it draws is what was asked for."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

import septet
from septet.cli.emoji_judge import load_emoji, share_recognised
from septet.cli.text_demo import PASS_MARK, draw, load_asset

EMOJI = Path(str(resources.files("septet") / "assets" / "emoji"))


@pytest.fixture(scope="module")
def pipe():
    return load_asset("emoji")


def share(pipe, prompts, guidance_scale, seed=0, steps=25):
    options = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    pictures = draw(pipe, prompts, seed, **options).transpose(0, 3, 1, 2)
    return share_recognised(pictures, prompts)


def test_pictures_are_recognised_and_better_with_guidance(pipe):
    prompts = load_emoji().prompts
    guided = share(pipe, prompts, guidance_scale=4, steps=10)
    assert guided >= PASS_MARK
    assert guided > share(pipe, prompts, guidance_scale=1, steps=10)


@pytest.mark.slow
def test_the_same_with_other_noise_and_more_steps(pipe):
    prompts = load_emoji().prompts
    guided, plain = (
        np.mean([share(pipe, prompts, guidance_scale, seed) for seed in (1, 2)])
        for guidance_scale in (4, 1)
    )
    assert guided >= PASS_MARK
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
