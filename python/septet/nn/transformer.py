"""Spatial transformers: the pixels of an image attend to each other and to a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from septet.nn.context import TextContext, repeat_rows
from septet.nn.linear import (
    ConditionLinear,
    Linear,
    PointwiseConv2d,
    as_tokens,
    image_of,
    joint_linear,
    sum_with,
)
from septet.nn.norm import GroupNormAct
from septet.ops import attention

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TransformerOptions:
    """How the spatial transformers of one block of a network are built.

    Attributes:
        heads: Number of attention heads. Each is ``channels // heads`` wide; the transformer works
            at the width ``heads * (channels // heads)``.
        context_dim: Width of a token of the text.
        layers: Number of transformer blocks in each spatial transformer of the block.
        use_linear_projection: Whether the layers at both ends are stored as matrices (Stable
            Diffusion 2) or as 1x1 convolutions.
        only_cross_attention: Whether the first attention of a transformer block, too, attends to
            the text instead of to the image.
    """

    heads: int
    context_dim: int
    layers: tuple[int, ...]
    use_linear_projection: bool = False
    only_cross_attention: bool = False


class SelfAttention(nn.Module):
    """Tokens attend to each other (Vaswani et al. 2017); no bias but at the output.

    Args:
        width: Width of a token.
        heads: Number of heads; must divide ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(width, width, bias=False)
        self.to_v = Linear(width, width, bias=False)
        # A list of one: published checkpoints call this layer "to_out.0".
        self.to_out = nn.ModuleList([Linear(width, width)])

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """Map ``[B, T, width]`` to the same shape and add a tensor of that."""
        query, key, value = (
            _heads(part, self.heads)
            for part in joint_linear(hidden, (self.to_q, self.to_k, self.to_v))
        )
        attended = attention(query, key, value).flatten(2)
        return sum_with(self.to_out[0], attended, residual)


class CrossAttention(nn.Module):
    """Tokens of an image attend to those of a text; no bias but at the output.

    Args:
        width: Width of an image's token.
        context_dim: Width of a text's token.
        heads: Number of heads; must divide ``width``.
    """

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=False)
        self.to_k = ConditionLinear(context_dim, width, bias=False)
        self.to_v = ConditionLinear(context_dim, width, bias=False)
        self.to_out = nn.ModuleList([Linear(width, width)])

    def project(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Compute key and value, two ``[R, S, H, D]``, of a text ``[R, S, context_dim]``."""
        key, value = joint_linear(text, (self.to_k, self.to_v))
        return _heads(key, self.heads), _heads(value, self.heads)

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor,
        context: TextContext,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            hidden: ``[B, T, width]``, where B is ``context.rows`` or half of it.
            residual: As ``hidden``, what the result is added to.
            context: Holds this layer's keys and values, the next ones in its order.
            bias: See :attr:`septet.nn.TextContext.bias`.

        Returns:
            ``[context.rows, T, width]``.
        """
        key, value = next(context.keys_values)
        query = repeat_rows(self.to_q(hidden), context.rows)
        # Queries do not see each other: samples with the same text may stand in one row.
        joined = query.reshape(key.shape[0], -1, self.heads, key.shape[3])
        attended = attention(joined, key, value, bias=bias).reshape(query.shape)
        return sum_with(self.to_out[0], attended, repeat_rows(residual, context.rows))


# Tokens that a feed-forward takes at a time in inference: as many as its products take at no loss,
# for its inner state has eight times their width and would be the largest tensor of a network.
_TOKENS_AT_A_TIME = 1024


class GEGLU(nn.Module):
    """A linear layer whose output's halves are multiplied, one after a GELU (Shazeer 2020).

    Args:
        width: Width of the input.
        inner: Width of the output.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(width, 2 * inner)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``[..., width]`` to ``[..., inner]``: the first half times GELU of the second."""
        value, gate = self.proj(hidden).chunk(2, dim=-1)
        gate = F.gelu(gate)
        return value * gate if torch.is_grad_enabled() else gate.mul_(value)


class FeedForward(nn.Module):
    """GEGLU to four times the width, then a linear layer back.

    Args:
        width: Width of input and output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 4 * width
        # Published checkpoints call these "net.0" and "net.2"; "net.1" has no weights.
        self.net = nn.Sequential(GEGLU(width, inner), nn.Identity(), Linear(inner, width))

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """Map ``[B, T, width]`` to the same shape and add a tensor of that."""
        enter, _, leave = self.net
        if torch.is_grad_enabled() or hidden[..., 0].numel() <= _TOKENS_AT_A_TIME:
            return sum_with(leave, enter(hidden), residual)
        tokens, sums = (
            torch.split(tensor.flatten(0, -2)[None], _TOKENS_AT_A_TIME, dim=1)
            for tensor in (hidden, residual)
        )
        parts = [
            sum_with(leave, enter(part), added) for part, added in zip(tokens, sums, strict=True)
        ]
        return torch.cat(parts, dim=1).view_as(hidden)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each x + f(LayerNorm(x)).

    Args:
        width: Width of an image's token.
        options: How it is built.
    """

    def __init__(self, width: int, options: TransformerOptions) -> None:
        super().__init__()
        heads, context_dim = options.heads, options.context_dim
        self.norm1 = nn.LayerNorm(width)
        self.attn1: SelfAttention | CrossAttention = (
            CrossAttention(width, context_dim, heads)
            if options.only_cross_attention
            else SelfAttention(width, heads)
        )
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = CrossAttention(width, context_dim, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def cross_attentions(self) -> list[CrossAttention]:
        """List the layers that read the text in the order in which they run."""
        return [layer for layer in (self.attn1, self.attn2) if isinstance(layer, CrossAttention)]

    def forward(self, hidden: Tensor, context: TextContext) -> Tensor:
        """Map ``[B, T, width]`` to ``[context.rows, T, width]``."""
        normed = self.norm1(hidden)
        if isinstance(self.attn1, CrossAttention):
            # The mask of the text is for the second attention alone, as in diffusers.
            hidden = self.attn1(normed, hidden, context)
        else:
            hidden = self.attn1(normed, hidden)
        hidden = self.attn2(self.norm2(hidden), hidden, context, context.bias)
        result: Tensor = self.ff(self.norm3(hidden), hidden)
        return result


class SpatialTransformer(nn.Module):
    """Normalisation, linear layer, transformer blocks, linear layer, and the sum with the input.

    After Rombach et al. 2022. Pixels are tokens: for a channels_last image that costs nothing.

    Args:
        channels: Channels of input and output.
        layers: Number of transformer blocks.
        groups: Groups of the normalisation.
        options: How the blocks are built.
    """

    def __init__(
        self, channels: int, layers: int, groups: int, options: TransformerOptions
    ) -> None:
        super().__init__()
        width = options.heads * (channels // options.heads)
        linear = Linear if options.use_linear_projection else PointwiseConv2d
        self.norm = GroupNormAct(groups, channels, eps=1e-6)
        self.proj_in = linear(channels, width)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, options) for _ in range(layers)
        )
        self.proj_out = linear(width, channels)

    def cross_attentions(self) -> list[CrossAttention]:
        """List the layers that read the text in the order in which they run."""
        return [
            layer
            for block in self.transformer_blocks
            for layer in block.cross_attentions()  # type: ignore[operator]
        ]

    def forward(self, sample: Tensor, context: TextContext) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[context.rows, C, H, W]``."""
        hidden = self.proj_in(as_tokens(self.norm(sample)))
        for block in self.transformer_blocks:
            hidden = block(hidden, context)
        residual = repeat_rows(as_tokens(sample), hidden.shape[0])
        return image_of(sum_with(self.proj_out, hidden, residual), sample)


def _heads(hidden: Tensor, heads: int) -> Tensor:
    """Return ``[B, T, heads * D]`` as ``[B, T, heads, D]``."""
    return hidden.view(*hidden.shape[:2], heads, -1)
