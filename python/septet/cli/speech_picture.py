"""The picture of a spoken text: its spectrogram, and which symbol owns which frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from septet.pipelines.output import to_pil

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pixels of a frame, of a mel bin, and of a symbol in the alignment.
_FRAME, _BIN, _SYMBOL = 4, 3, 2
_LINE = 12
_LABEL_LINES = 2
#: Dark to bright with evenly rising lightness, so that the picture reads in grey too.
_COLOURS = np.array(
    [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]]
)


def speech_picture(
    mel: npt.NDArray[np.float32],
    alignment: npt.NDArray[np.float32],
    symbols: Sequence[str],
    text: str,
) -> Image:
    """Draw text, spectrogram, symbols under their frames, and alignment, on one time axis.

    Args:
        mel: ``[num_mels, T]``, natural log of amplitude; low notes are drawn below.
        alignment: ``[L, T]``, 1 where a symbol owns a frame; the first symbol is drawn on top.
        symbols: L names; an empty one (a blank) gets no label.
        text: A title; what does not fit is cut off.

    Raises:
        ValueError: If the shapes do not go together.
    """
    from PIL import Image, ImageDraw

    expected = (len(symbols), mel.shape[1])
    if alignment.shape != expected:
        raise ValueError(f"alignment must be {list(expected)}, got {list(alignment.shape)}")
    top = _LINE + 4
    below = top + mel.shape[0] * _BIN
    rows = below + _LABEL_LINES * _LINE + 4
    width = mel.shape[1] * _FRAME
    sheet = Image.new("RGB", (width, rows + len(symbols) * _SYMBOL), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((2, 2), text, fill="black")
    sheet.paste(_coloured(_enlarged(mel[::-1], _BIN)), (0, top))
    sheet.paste(_coloured(_enlarged(alignment, _SYMBOL)), (0, rows))
    labels = [(owned, name) for owned, name in zip(alignment, symbols, strict=True) if name]
    for number, (owned, name) in enumerate(labels):
        frames = np.flatnonzero(owned)
        if not len(frames):
            continue
        left, right = frames[0] * _FRAME, (frames[-1] + 1) * _FRAME
        draw.line([(left, below), (left, below + 2)], fill="black")
        place = ((left + right) / 2, below + 3 + number % _LABEL_LINES * _LINE)
        draw.text(place, name, fill="black", anchor="ma")
    return sheet


def _enlarged(values: npt.NDArray[np.float32], height: int) -> npt.NDArray[np.float32]:
    return values.repeat(height, axis=0).repeat(_FRAME, axis=1)


def _coloured(values: npt.NDArray[np.float32]) -> Image:
    """Colour a picture between its least and its greatest value."""
    low, high = float(values.min()), float(values.max())
    shares = (values - low) / max(high - low, 1e-6) * (len(_COLOURS) - 1)
    channels = [np.interp(shares, range(len(_COLOURS)), column) for column in _COLOURS.T]
    pixels = (np.stack(channels, axis=-1) / 255).astype(np.float32)
    return to_pil(pixels[None])[0]
