"""Noise for a batch whose samples have different lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from septet.random import Generators, PhiloxSeeds, randn_tensor


class RaggedNoise:
    """Draws, for every sample, what would be drawn for it alone.

    A draw of the whole padded batch would give a sample other noise than a draw of its own length,
    and leave its generator elsewhere.

    Args:
        generator: See :func:`septet.randn_tensor`; one for all is drawn from sample by sample.
        lengths: Of each sample, along the last axis.
        shape: ``(B, ..., longest)``.
        device: Device of the noise.
        dtype: Type of the noise.

    Attributes:
        mask: ``[B, 1, ..., longest]``, 0 beyond a sample's end.
    """

    def __init__(
        self,
        generator: Generators,
        lengths: Sequence[int],
        shape: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._generator = generator
        self._lengths, self._shape = tuple(lengths), tuple(shape)
        self._device, self._dtype = device, dtype
        self._sources: list[Generators]
        if isinstance(generator, PhiloxSeeds):
            self._sources = [PhiloxSeeds([seed], generator.offset) for seed in generator.seeds]
        elif isinstance(generator, Sequence):
            self._sources = list(generator)
        else:
            self._sources = [generator] * len(self._lengths)
        inside = torch.arange(self._shape[-1]) < torch.tensor(self._lengths)[:, None]
        middle = [1] * (len(self._shape) - 2)
        self.mask = inside.reshape(len(self._lengths), *middle, -1).to(device, dtype)

    def __call__(self) -> Tensor:
        """Draw standard normal noise of the shape given, zero beyond each sample's end."""
        noise = torch.zeros(self._shape, device=self._device, dtype=self._dtype)
        for row, source, length in zip(noise, self._sources, self._lengths, strict=True):
            own = (1, *self._shape[1:-1], length)
            row[..., :length] = randn_tensor(own, source, self._device, self._dtype)[0]
        return noise

    def close(self) -> None:
        """Leave Philox streams behind the words that the longest sample has used."""
        if isinstance(self._generator, PhiloxSeeds):
            used = [source.offset for source in self._sources if isinstance(source, PhiloxSeeds)]
            self._generator.offset = max(used)
