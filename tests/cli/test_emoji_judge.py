"""The judge of generated emoji: right about real ones, at chance about others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from septet.cli.emoji_judge import load_emoji, psnr, rank_captions, share_recognised, shrink


def prompts_and_pixels() -> tuple[tuple[str, ...], Tensor]:
    emoji = load_emoji()
    return emoji.prompts, emoji.pixels[emoji.is_prompt]


def damage(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 9 degrees, scale by 10 %, shift by 2.5 pixels, blur, add noise."""
    count = len(pixels)
    angle, zoom, right, down = torch.rand(4, count, generator=generator) * 2 - 1
    cos, sin = (0.15 * angle).cos() * (1 + 0.1 * zoom), (0.15 * angle).sin() * (1 + 0.1 * zoom)
    rows = [torch.stack([cos, -sin, 0.08 * right], 1), torch.stack([sin, cos, 0.08 * down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [count, 3, 64, 64], align_corners=False)
    moved = 1 - F.grid_sample(1 - pixels, grid, align_corners=False)
    blurred = F.avg_pool2d(F.pad(moved, (2,) * 4, value=1.0), 5, 1)
    return (blurred + 0.1 * torch.randn(blurred.shape, generator=generator)).clamp(0, 1)


def test_data() -> None:
    emoji = load_emoji()
    assert emoji.pixels.shape == (len(emoji.captions), 3, 64, 64)
    assert emoji.pixels.min() == 0
    assert emoji.pixels.max() == 1
    assert len(set(emoji.captions)) == len(emoji.captions)
    assert len(emoji.prompts) == 50
    assert (emoji.is_train | ~emoji.is_prompt).all()
    assert 50 <= (~emoji.is_train).sum() < 100
    # The ground is white: alpha is gone.
    assert emoji.pixels[:, :, 0, 0].mean() > 0.95


def test_captions_name_what_is_seen() -> None:
    emoji = load_emoji()
    for caption, strongest in {"red heart": 0, "green square": 1, "blue circle": 2}.items():
        pixels = emoji.pixels[emoji.captions.index(caption)]
        assert int(pixels[:, 20:40, 20:40].mean(dim=(1, 2)).argmax()) == strongest


def test_real_emoji() -> None:
    prompts, pixels = prompts_and_pixels()
    assert rank_captions(pixels.numpy(), prompts) == [1] * 50
    generator = torch.Generator().manual_seed(0)
    shares = [share_recognised(damage(pixels, generator).numpy(), prompts) for _ in range(4)]
    assert min(shares) >= 0.98


def test_chance() -> None:
    prompts, pixels = prompts_and_pixels()
    shares = [
        share_recognised(pixels.numpy(), prompts[shift:] + prompts[:shift])
        for shift in range(1, 50, 8)
    ]
    assert np.mean(shares) < 0.15
    mean = pixels.mean(dim=0).expand(50, -1, -1, -1)
    for constant in (torch.full_like(pixels, 0.5), mean):
        assert share_recognised(constant.numpy(), prompts) == pytest.approx(0.1, abs=0.02)
    noise = np.random.default_rng(0).random((50, 3, 64, 64))
    assert share_recognised(noise, prompts) < 0.2


def test_shrink_and_psnr() -> None:
    pixels = load_emoji().pixels[:3]
    small = shrink(pixels, 32)
    assert torch.equal(small[1, 2, 4, 5], pixels[1, 2, 8:10, 10:12].mean())
    assert psnr(pixels, (pixels + 0.1)) == pytest.approx([20] * 3, abs=1e-3)
    for size in (0, 24):
        with pytest.raises(ValueError, match="size must divide"):
            shrink(pixels, size)


@pytest.mark.parametrize("shape", [(0, 3, 64, 64), (2, 1, 64, 64), (3, 64, 64), (2, 3, 32, 32)])
def test_refuses_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="images must have shape"):
        rank_captions(np.zeros(shape), ["red apple"] * shape[0])


def test_refuses_values_and_captions() -> None:
    images = np.zeros((2, 3, 64, 64))
    with pytest.raises(ValueError, match="captions must be 2 strings"):
        rank_captions(images, ["red apple"])
    with pytest.raises(ValueError, match="captions must be 2 strings"):
        rank_captions(images, "ab")
    with pytest.raises(ValueError, match="prompts of the judge, got 'bucket'"):
        rank_captions(images, ["bucket", "red apple"])
    for bad in (-0.1, 1.1, np.nan):
        images[0, 0, 3, 3] = bad
        with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
            rank_captions(images, ["red apple"] * 2)
