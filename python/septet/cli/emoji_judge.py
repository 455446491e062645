"""Says whether pictures show the emoji that their captions name, by comparing with real ones.

A picture is compared with the real emoji of 50 fixed captions, and its own caption has to be
among those whose emoji are most like it. Nothing is learnt: the likeness is a correlation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_SIZE = 64
#: A picture is recognised if its caption is among this many of the 50 candidates.
TOP = 5
_COARSE_SIZE = 16
_SHIFTS = (-4, -2, 0, 2, 4)


@dataclass(frozen=True)
class Emoji:
    """The captioned emoji of the text-to-image demos.

    Attributes:
        pixels: ``[N, 3, 64, 64]`` float32 in [0, 1], on a white ground.
        captions: The N captions, in lower case.
        is_prompt: ``[N]`` bool, the 50 that the demos are judged on; all of them ``is_train``.
        is_train: ``[N]`` bool, those to train on; no training sees the others.
    """

    pixels: Tensor
    captions: tuple[str, ...]
    is_prompt: Tensor
    is_train: Tensor

    def captions_of(self, chosen: Tensor) -> tuple[str, ...]:
        """Return the captions where ``[N]`` bool is true."""
        return tuple(self.captions[index] for index in chosen.nonzero().flatten().tolist())

    @property
    def prompts(self) -> tuple[str, ...]:
        """The 50 captions that the demos are judged on."""
        return self.captions_of(self.is_prompt)


@functools.cache
def load_emoji() -> Emoji:
    """Load the emoji that come with the package."""
    with (resources.files("septet") / "assets" / "emoji_data.npz").open("rb") as file:
        arrays = np.load(file)
        pixels, captions, is_prompt, is_train = (
            arrays[key] for key in ("pixels", "captions", "is_prompt", "is_train")
        )
    return Emoji(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).contiguous(),
        captions=tuple(captions.tolist()),
        is_prompt=torch.from_numpy(is_prompt),
        is_train=torch.from_numpy(is_train),
    )


def shrink(pixels: Tensor, size: int) -> Tensor:
    """Shrink pictures by averaging squares of pixels, as an upsampler's input is made.

    Args:
        pixels: ``[N, C, H, H]``.
        size: The new height and width.

    Raises:
        ValueError: If H is not a multiple of ``size``.
    """
    if size < 1 or pixels.shape[-1] % size or pixels.shape[-2] != pixels.shape[-1]:
        raise ValueError(
            f"size must divide the size of square pictures, got {size} for {list(pixels.shape)}"
        )
    return F.avg_pool2d(pixels, pixels.shape[-1] // size)


def psnr(pixels: Tensor, reference: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in decibels, ``[N]``.

    Args:
        pixels: ``[N, C, H, W]`` in [0, 1].
        reference: The same shape.
    """
    return -10 * (pixels - reference).square().flatten(1).mean(dim=1).log10()


def rank_captions(images: NDArray[np.floating], captions: Sequence[str]) -> list[int]:
    """Rank the 50 candidate captions for each picture and return the place of its own, from 1.

    Pictures are compared at 16x16, as differences from the mean candidate, at the best of 25
    shifts of up to four of their 64 pixels.

    Args:
        images: ``[N, 3, 64, 64]`` in [0, 1], at least one.
        captions: What the N pictures are to show, each one of ``load_emoji().prompts``.

    Raises:
        ValueError: If the shape is another, a pixel lies outside [0, 1], or the captions do not
            fit.
    """
    batch = torch.from_numpy(np.asarray(images, dtype=np.float32))
    if batch.ndim != 4 or batch.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE) or not len(batch):
        raise ValueError(f"images must have shape [N, 3, 64, 64], got {list(batch.shape)}")
    if not ((batch >= 0) & (batch <= 1)).all():
        raise ValueError("images must lie in [0, 1]")
    if isinstance(captions, str) or len(captions) != len(batch):
        raise ValueError(f"captions must be {len(batch)} strings, one per image, got {captions!r}")
    prompts = load_emoji().prompts
    unknown = sorted(set(captions) - set(prompts))
    if unknown:
        raise ValueError(f"captions must be prompts of the judge, got {unknown[0]!r}")
    own = torch.tensor([prompts.index(caption) for caption in captions])
    likeness = _likeness(batch)
    return (likeness > likeness.gather(1, own[:, None])).sum(dim=1).add(1).tolist()


def share_recognised(images: NDArray[np.floating], captions: Sequence[str]) -> float:
    """Return the share of pictures whose caption is in the top 5; see ``rank_captions``."""
    ranks = rank_captions(images, captions)
    return sum(rank <= TOP for rank in ranks) / len(ranks)


def _likeness(images: Tensor) -> Tensor:
    """Return the cosine of the angle between pictures and candidates, ``[N, 50]``."""
    emoji = load_emoji()
    candidates = shrink(emoji.pixels[emoji.is_prompt], _COARSE_SIZE)
    mean = candidates.mean(dim=0)
    known = F.normalize((candidates - mean).flatten(1), dim=1)
    reach = max(_SHIFTS)
    padded = F.pad(images, (reach,) * 4, value=1.0)
    best = torch.full((len(images), len(known)), -torch.inf)
    for down in _SHIFTS:
        for right in _SHIFTS:
            top, left = reach + down, reach + right
            moved = padded[:, :, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
            seen = F.normalize((shrink(moved, _COARSE_SIZE) - mean).flatten(1), dim=1)
            best = torch.maximum(best, seen @ known.T)
    return best
