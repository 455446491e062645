"""From predicted durations to frames: which symbol sounds when (Popov et al. 2021, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

#: Twenty minutes of the published models' frames; a network that asks for more is broken.
MAX_FRAMES = 1 << 17


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which frames belong to which symbols.

    Attributes:
        durations: ``[B, L]`` float32, frames per symbol; fractions come from the length scale.
        lengths: Frames of each text.
        path: ``[B, L, T]``, 1 where a symbol owns a frame; T is the largest length, rounded up.
        mask: ``[B, 1, T]``, 1 for frames and 0 for padding.
    """

    durations: Tensor
    lengths: list[int]
    path: Tensor
    mask: Tensor


def align(log_durations: Tensor, mask: Tensor, *, length_scale: float, multiple: int) -> Alignment:
    """Give every symbol its frames.

    Durations are rounded up before they are scaled, as in the authors' code, so that symbol i owns
    the frames from the sum of the durations before it, inclusive, to that with its own, exclusive.

    Args:
        log_durations: ``[B, 1, L]``, natural logarithms.
        mask: ``[B, 1, L]``, 1 for symbols and 0 for padding.
        length_scale: Above 1 is slower.
        multiple: The number of frames is rounded up to a multiple of it.

    Raises:
        ValueError: If a text would not be finite, or longer than :data:`MAX_FRAMES`.
    """
    durations = (log_durations.float().exp() * mask.float()).ceil()[:, 0] * length_scale
    totals = durations.sum(1).tolist()
    for index, total in enumerate(totals):
        if not total <= MAX_FRAMES:
            raise ValueError(
                f"text_encoder predicts {total:.4g} frames for text {index}, more than "
                f"{MAX_FRAMES}; check length_scale ({length_scale})"
            )
    lengths = [math.trunc(max(total, 1)) for total in totals]
    size = -(-max(lengths) // multiple) * multiple
    frames = torch.arange(size, device=durations.device)
    begun = (frames < durations.cumsum(1)[..., None]).to(mask.dtype)  # by the end of each symbol
    frame_mask = frames < torch.tensor(lengths, device=durations.device)[:, None, None]
    path = begun - F.pad(begun, (0, 0, 1, 0))[:, :-1]
    path = path * mask.transpose(1, 2) * frame_mask
    return Alignment(durations, lengths, path, frame_mask.to(mask.dtype))
