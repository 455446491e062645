"""The emoji of the demo command: what is drawn, what the table says, when it fails."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from septet.cli import text_demo
from septet.cli.emoji_judge import load_emoji
from septet.cli.files import captioned_grid
from septet.cli.main import main


class Painter:
    """Draws the real emoji of the first prompts, and white paper for the others."""

    def __init__(self, num_known: int) -> None:
        self.num_known = num_known

    def __call__(self, prompts, *, generator, output_type, **call):
        assert (generator.initial_seed(), output_type) == (5, "np")
        assert call["guidance_scale"] == 4
        emoji = load_emoji()
        pixels = emoji.pixels[[emoji.captions.index(prompt) for prompt in prompts]]
        pixels[self.num_known :] = 1
        return SimpleNamespace(images=pixels.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(("num_known", "code"), [(50, 0), (20, 1)])
def test_judges_and_writes(monkeypatch, tmp_path, capsys, num_known, code):
    monkeypatch.setattr(text_demo, "load_asset", lambda folder: Painter(num_known))
    assert main(["demo", "--only", "emoji", "--seed", "5", "--output", str(tmp_path)]) == code
    printed = capsys.readouterr()
    rows = printed.out.splitlines()[1:]
    for row, name, picture in zip(
        rows, ("Latent Diffusion", "GLIDE"), ("emoji", "glide"), strict=False
    ):
        assert row.startswith(name)
        share = int(row.split()[-1].rstrip("%"))
        assert share == 100 if num_known == 50 else share < 60
        assert (f"{name}: only" in printed.err) == bool(code)
        with Image.open(tmp_path / f"{picture}.png") as sheet:
            assert sheet.size == (10 * 128, 5 * 156)


def test_captioned_grid():
    pixels = np.zeros((3, 8, 8, 3), dtype=np.float32)
    pixels[1, :, :, 0] = 1
    sheet = np.asarray(captioned_grid(pixels, ["a", "", "b"], columns=2, scale=4))
    assert sheet.shape == (2 * (32 + 28), 64, 3)
    assert (sheet[:32, :32] == 0).all()
    assert (sheet[:32, 32:] == (255, 0, 0)).all()
    assert (sheet[60:92, :32] == 0).all()
    assert (sheet[60:, 32:] == 255).all(), "nothing is drawn where there is no picture"
    is_inked = (sheet[:, :, 1] < 128).reshape(2, 60, 2, 32)[:, 32:].any(axis=(1, 3))
    assert is_inked.tolist() == [[True, False], [True, False]]


def test_captioned_grid_refuses_another_number_of_captions():
    with pytest.raises(ValueError, match="captions must be 2, one per picture, got 1"):
        captioned_grid(np.zeros((2, 8, 8, 3), dtype=np.float32), ["a"])
