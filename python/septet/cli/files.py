"""Picture files of the commands: grids, and files that appear complete or not at all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from septet.checkpoints.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.float32]


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


def save_png(image: Image, path: Path) -> None:
    """Write a picture; the folder is made, and the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG"))
