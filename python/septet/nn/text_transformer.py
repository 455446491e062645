"""GLIDE's text transformer (Nichol et al. 2021), with the authors' names of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from septet.ops import attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def quick_gelu(input: Tensor) -> Tensor:
    """Approximate GELU as ``x * sigmoid(1.702 x)``, as CLIP does (Radford et al. 2021)."""
    return input * torch.sigmoid(1.702 * input)


#: The authors' activation, and what the folder of June 2022 asks for.
TEXT_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class TextAttention(nn.Module):
    """Every token attends to every token, padding included.

    Args:
        width: Channels of input and output.
        heads: Number of heads; divides the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_qkv = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, T, width]`` to the same shape."""
        # packed head by head, each with its queries, keys and values
        query, key, value = self.c_qkv(tokens).unflatten(-1, (self.heads, 3, -1)).unbind(-2)
        hidden: Tensor = self.c_proj(attention(query, key, value).flatten(2))
        return hidden


class TextMLP(nn.Module):
    """Linear, activation, linear, four times as wide in between.

    Args:
        width: Channels of input and output.
        act_fn: One of :data:`TEXT_ACTIVATIONS`.
    """

    def __init__(self, width: int, act_fn: str) -> None:
        super().__init__()
        self.act = TEXT_ACTIVATIONS[act_fn]
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, T, width]`` to the same shape."""
        hidden: Tensor = self.c_proj(self.act(self.c_fc(tokens)))
        return hidden


class TextTransformerBlock(nn.Module):
    """Attention, then a small network per token, each on the normalised input and added to it.

    Args:
        width: Channels of input and output.
        heads: Number of heads.
        act_fn: One of :data:`TEXT_ACTIVATIONS`.
    """

    def __init__(self, width: int, heads: int, act_fn: str) -> None:
        super().__init__()
        self.attn = TextAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = TextMLP(width, act_fn)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, T, width]`` to the same shape."""
        tokens = tokens + self.attn(self.ln_1(tokens))
        result: Tensor = tokens + self.mlp(self.ln_2(tokens))
        return result


class TextTransformer(nn.Module):
    """The layers, without embedding before and normalisation after: not causal, not masked.

    Args:
        width: Channels of input and output.
        layers: Number of layers.
        heads: Number of heads.
        act_fn: One of :data:`TEXT_ACTIVATIONS`.
    """

    def __init__(self, width: int, layers: int, heads: int, act_fn: str) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            TextTransformerBlock(width, heads, act_fn) for _ in range(layers)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, T, width]`` to the same shape."""
        for block in self.resblocks:
            tokens = block(tokens)
        return tokens
