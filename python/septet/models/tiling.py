"""Running an image network tile by tile, with overlaps that fade into each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """How tiles lie on the input, and what is used of each in the output.

    Attributes:
        size: Height and width of a tile in the input.
        stride: Distance of the upper left corners of two neighbours in the input.
        blend: Rows and columns at the upper and left edge of a tile, in the output, that fade
            from the neighbour there to this tile.
        keep: Rows and columns of the output that are used; the next tile takes over there.
    """

    size: int
    stride: int
    blend: int
    keep: int

    @classmethod
    def with_overlap(cls, size: int, output_size: int, overlap: float) -> Tiling:
        """Choose the distances as diffusers does.

        Args:
            size: Height and width of a tile in the input.
            output_size: The same in the output.
            overlap: The part of a tile that it shares with its neighbour, at least 0, below 1.

        Raises:
            ValueError: If tiles of that kind would not advance.
        """
        stride = int(size * (1 - overlap))
        blend = int(output_size * overlap)
        if stride < 1 or blend < 0 or output_size - blend < 1:
            raise ValueError(
                f"tiles of {size} pixels, {output_size} in the output, cannot overlap by {overlap}"
            )
        return cls(size, stride, blend, output_size - blend)

    def run(self, network: Callable[[Tensor], Tensor], sample: Tensor) -> Tensor:
        """Run a network on each tile and join the results.

        Args:
            network: Maps ``[B, C, h, w]`` to ``[B, C', h', w']``, h' and w' being the same
                multiple or fraction of h and w; its results are changed in place.
            sample: ``[B, C, H, W]``.

        Returns:
            ``[B, C', H', W']``.
        """
        above: list[Tensor] = []
        strips = []
        for top in range(0, sample.shape[2], self.stride):
            row: list[Tensor] = []
            for left in range(0, sample.shape[3], self.stride):
                tile = network(sample[:, :, top : top + self.size, left : left + self.size])
                if above:
                    self._fade(above[len(row)], tile, axis=2)
                if row:
                    self._fade(row[-1], tile, axis=3)
                row.append(tile)
            strips.append(torch.cat([tile[:, :, : self.keep, : self.keep] for tile in row], dim=3))
            above = row
        return torch.cat(strips, dim=2)

    def _fade(self, before: Tensor, tile: Tensor, axis: int) -> None:
        """Let the first pixels of a tile go over linearly from the last ones of its neighbour."""
        count = min(before.shape[axis], tile.shape[axis], self.blend)
        if count == 0:
            return
        share = torch.arange(count, device=tile.device).to(tile.dtype) / count
        share = share[:, None] if axis == 2 else share
        edge = tile.narrow(axis, 0, count)
        end = before.narrow(axis, before.shape[axis] - count, count)
        edge.copy_(end * (1 - share) + edge * share)
