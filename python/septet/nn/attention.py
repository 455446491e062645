"""Self-attention over the pixels of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from septet.nn.linear import Linear, as_tokens, image_of, sum_with
from septet.nn.norm import GroupNormAct
from septet.ops import attention

if TYPE_CHECKING:
    from torch import Tensor


class SpatialAttention(nn.Module):
    """Every pixel attends to every pixel: x + out(softmax(q k^T / sqrt(head_dim)) v).

    Args:
        channels: Channels of input and output.
        head_dim: Width of a head. There are ``channels // head_dim`` heads; channels left over by
            that division do not enter the attention.
        groups: Groups of the normalisation in front, None for no normalisation.
        eps: Epsilon of the normalisation.
        output_scale_factor: The sum with the input is divided by it.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int,
        *,
        groups: int | None,
        eps: float,
        output_scale_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.heads = channels // head_dim
        self.output_scale_factor = output_scale_factor
        inner = self.heads * head_dim
        self.group_norm = None if groups is None else GroupNormAct(groups, channels, eps)
        self.to_q = Linear(channels, inner)
        self.to_k = Linear(channels, inner)
        self.to_v = Linear(channels, inner)
        # A list of one: published checkpoints call this layer "to_out.0".
        self.to_out = nn.ModuleList([Linear(inner, channels)])

    def forward(self, sample: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to the same shape."""
        hidden = sample if self.group_norm is None else self.group_norm(sample)
        hidden = as_tokens(hidden)
        query, key, value = (
            layer(hidden).unflatten(-1, (self.heads, -1))
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        attended = attention(query, key, value).flatten(2)
        total = image_of(sum_with(self.to_out[0], attended, as_tokens(sample)), sample)
        return total if self.output_scale_factor == 1 else total / self.output_scale_factor
