"""Which frames of a batch of spectrograms count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FrameMask:
    """A mask over spectrograms as images, at one resolution.

    Attributes:
        values: ``[B, 1, H, W]``, 1 for the pixels of frames and 0 for padding.
        lengths: Frames of each sample, where all padding lies behind them and is on the CPU:
            then it alone is written, or nothing at all, instead of multiplying all pixels. None
            otherwise.
    """

    values: Tensor
    lengths: tuple[int, ...] | None

    @classmethod
    def over_bins(cls, mask: Tensor, num_bins: int) -> FrameMask:
        """Repeat a mask of frames, ``[B, 1, W]``, for ``num_bins`` bins."""
        values = mask[:, None].expand(-1, -1, num_bins, -1).contiguous()
        return cls(values, _lengths(mask[:, 0]))

    def halved(self) -> FrameMask:
        """Return the mask behind two strides of 2: half the bins, and every second frame."""
        lengths = None if self.lengths is None else tuple((n + 1) // 2 for n in self.lengths)
        return FrameMask(self.values[:, :, ::2, ::2].contiguous(), lengths)

    @property
    def is_whole(self) -> bool:
        """Whether all pixels are known to count."""
        return self.lengths is not None and min(self.lengths) == self.values.shape[-1]

    def __call__(self, hidden: Tensor) -> Tensor:
        """Make the padding zero.

        Args:
            hidden: ``[B, C, H, W]``; overwritten for inference on the CPU.
        """
        if self.lengths is None or hidden.requires_grad:
            return hidden * self.values
        for sample, length in zip(hidden, self.lengths, strict=True):
            if length < sample.shape[-1]:
                sample[..., length:] = 0
        return hidden

    def shift(self, hidden: Tensor, shift: Tensor) -> Tensor:
        """Add to all pixels but the padding, which becomes zero.

        Args:
            hidden: ``[B, C, H, W]``, zero in the padding; overwritten for inference on the CPU.
            shift: ``[B or 1, C]``.
        """
        pixels = shift[:, :, None, None]
        if self.lengths is None or hidden.requires_grad or shift.requires_grad:
            return torch.addcmul(hidden, pixels, self.values)
        return self(hidden.add_(pixels))


def _lengths(mask: Tensor) -> tuple[int, ...] | None:
    """Return how many frames begin the rows of ``[B, W]``, None if they are not known to."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    counts = mask.sum(1)
    begins = torch.arange(mask.shape[1]) < counts[:, None]
    return tuple(int(n) for n in counts) if torch.equal(begins.to(mask.dtype), mask) else None
