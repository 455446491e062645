"""The GLIDE checkpoint that comes with septet: what it draws is what was asked for."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import septet
from septet.cli.emoji_judge import load_emoji, psnr, share_recognised, shrink
from septet.cli.main import main
from septet.cli.text_demo import PASS_MARK, draw, load_asset

ASSETS = Path(str(resources.files("septet") / "assets"))


@pytest.fixture(scope="module")
def pipe():
    return load_asset("glide")


def draw_quickly(pipe, prompts, guidance_scale, steps=10, seed=0):
    """Draw pictures of 64x64 pixels with few steps, ``[B, 3, 64, 64]``."""
    options = {"num_inference_steps": steps, "num_inference_steps_upscale": 3}
    pixels = draw(pipe, prompts, seed, guidance_scale=guidance_scale, **options)
    return pixels.transpose(0, 3, 1, 2)


def test_pictures_are_recognised(pipe):
    captions = load_emoji().prompts
    prompts = [f"a picture of a {caption}" for caption in captions]
    pictures = draw_quickly(pipe, prompts, guidance_scale=4)
    assert pictures.shape == (50, 3, 64, 64)
    assert share_recognised(pictures, captions) >= PASS_MARK
    # The judge would not be content with anything: these are captions of other pictures.
    assert share_recognised(pictures, captions[1:] + captions[:1]) < 0.2


def test_without_weight_the_text_counts_for_nothing(pipe):
    captions = load_emoji().prompts[::2]
    assert share_recognised(draw_quickly(pipe, captions, guidance_scale=0), captions) < 0.3


@pytest.mark.parametrize("seed", [0, 1])
def test_guidance_helps_where_the_pictures_are_not_perfect_anyway(pipe, seed):
    captions = load_emoji().prompts
    # with more than two steps nearly every picture is recognised, guided or not
    guided, plain = (
        share_recognised(draw_quickly(pipe, captions, scale, steps=2, seed=seed), captions)
        for scale in (4, 1)
    )
    assert guided >= PASS_MARK
    assert guided > plain


def test_the_upsampler_beats_bicubic(pipe):
    emoji = load_emoji()
    real = emoji.pixels[~emoji.is_train]  # no training saw them
    small = shrink(real, pipe.text_unet.config.sample_size)
    bicubic = F.interpolate(small, size=64, mode="bicubic").clamp(0, 1)
    generator = torch.Generator().manual_seed(0)
    large = pipe.upscale(
        small * 2 - 1, num_inference_steps=4, generator=generator, output_type="pt"
    ).images
    gain = psnr(large, real) - psnr(bicubic, real)
    assert gain.mean() > 0
    assert (gain > 0).float().mean() > 0.5


def test_run_draws_one(tmp_path):
    command = ["run", "--model", str(ASSETS / "glide"), "--prompt", "a red apple", "--steps", "5"]
    path = tmp_path / "apple.png"
    assert main([*command, "--output", str(path)]) == 0
    with Image.open(path) as picture:
        assert (picture.size, picture.mode) == ((64, 64), "RGB")


def test_the_checkpoint_is_small_and_says_where_its_data_comes_from():
    files = [path for path in (ASSETS / "glide").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5_000_000
    folder = septet.GLIDEPipeline.from_pretrained(ASSETS / "glide", dtype=torch.float16)
    assert {p.dtype for p in folder.text_unet.parameters()} == {torch.float16}
    licence = (ASSETS / "emoji_data.LICENSE.txt").read_text()
    assert "tools/train_demo_glide.py" in licence
