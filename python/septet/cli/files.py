"""Picture files of the commands: grids, and files that appear complete or not at all."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from septet.checkpoints.files import write_atomically
from septet.pipelines.output import to_pil

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.float32]

_CAPTION_LINES = 2
_LINE_HEIGHT = 12
_LETTER_WIDTH = 6


def grid(pixels: Pixels, scale: int = 1) -> Pixels:
    """Lay images out in a near-square grid with a thin grey border.

    Args:
        pixels: ``[N, H, W, C]`` in [0, 1].
        scale: Every pixel becomes a square of this size.

    Returns:
        ``[1, H', W', C]`` in [0, 1].
    """
    count, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    large = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    cell = np.full((rows * columns, height * scale + 2, width * scale + 2, channels), 0.5)
    cell[:count, 1:-1, 1:-1] = large
    shape = (rows, columns, *cell.shape[1:])
    tiled: Pixels = cell.reshape(shape).transpose(0, 2, 1, 3, 4).astype(np.float32)
    return tiled.reshape(1, rows * shape[2], columns * shape[3], channels)


def captioned_grid(
    pixels: Pixels, captions: Sequence[str], *, columns: int = 10, scale: int = 2
) -> Image:
    """Lay colour pictures out in rows on a white ground, what they show written below each.

    Args:
        pixels: ``[N, H, W, 3]`` in [0, 1].
        captions: N texts; what does not fit into two lines is cut.
        columns: Pictures per row.
        scale: Every pixel becomes a square of this size.

    Raises:
        ValueError: If there are not as many captions as pictures.
    """
    from PIL import Image, ImageDraw

    if len(captions) != len(pixels):
        raise ValueError(f"captions must be {len(pixels)}, one per picture, got {len(captions)}")
    large = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = large.shape[1] + _CAPTION_LINES * _LINE_HEIGHT + 4, large.shape[2]
    rows = math.ceil(len(captions) / columns)
    sheet = Image.new("RGB", (min(columns, len(captions)) * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(to_pil(large), captions, strict=True)):
        left, top = index % columns * width, index // columns * height
        sheet.paste(picture, (left, top))
        lines = textwrap.wrap(caption, max(1, width // _LETTER_WIDTH))[:_CAPTION_LINES]
        for number, line in enumerate(lines):
            place = (left + width / 2, top + large.shape[1] + number * _LINE_HEIGHT)
            draw.text(place, line, fill="black", anchor="ma")
    return sheet


def save_png(image: Image, path: Path) -> None:
    """Write a picture; the folder is made, and the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG"))
