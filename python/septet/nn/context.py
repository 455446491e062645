"""What cross-attention layers are given of a text, and how guidance halves share their start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@dataclass(frozen=True, eq=False)
class TextContext:
    """A text as the cross-attention layers of one run of a network see it.

    Attributes:
        rows: How many samples there are behind the first cross-attention. Before it there may be
            half as many: the two halves of classifier-free guidance differ in their text alone.
        keys_values: A key and a value ``[R, S, H, D]`` per cross-attention layer, in the order in
            which the layers run. R divides ``rows``; each text serves ``rows / R`` consecutive
            samples.
        bias: ``[R, 1, 1, S]``, added to the logits of the text's tokens, or None.
    """

    rows: int
    keys_values: Iterator[tuple[Tensor, Tensor]]
    bias: Tensor | None = None


def repeat_rows(tensor: Tensor, rows: int) -> Tensor:
    """Repeat a whole batch until it has ``rows`` rows; memory format and a fitting batch stay.

    Args:
        tensor: ``[B, ...]``, where B divides ``rows``.
        rows: The number of rows wanted.
    """
    batch = tensor.shape[0]
    # A view of stride 0 would do for one sample, but nobody would see that it is channels_last.
    return tensor if batch == rows else torch.cat([tensor] * (rows // batch))
