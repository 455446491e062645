"""Attention whose cost is linear in the number of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from septet.ops import attention

if TYPE_CHECKING:
    from torch import Tensor


class LinearAttention(nn.Module):
    """All pixels share one context per head: ``out(W_q x^T context) + bias`` (Shen et al. 2021).

    With the softmax of the keys over the pixels, ``P = softmax(W_k x)``, the context of a head is
    ``P (W_v x)^T``. That is ``(P x^T) W_v^T``, and everything after it is linear in x too. So
    values, queries and output projection are multiplied with each other, not with every pixel.
    The weights are those of the 1x1 convolutions in the published networks.

    Args:
        channels: Channels of input and output.
        num_heads: Number of heads.
        head_dim: Width of a head.
    """

    def __init__(self, channels: int, num_heads: int = 4, head_dim: int = 32) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner = num_heads * head_dim
        self.to_qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        self.to_out = nn.Conv2d(inner, channels, 1)

    def forward(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            sample: ``[B, N, C]``, N pixels.

        Returns:
            ``[B, C, C]`` and ``[C]``, the matrix M and the bias b of the result
            ``sample M^T + b``, so that the caller can merge them with what it does next.
        """
        weights = self.to_qkv.weight.flatten(1)
        query, key, value = weights.chunk(3)  # [H * D, C] each
        per_head = (self.num_heads, -1, weights.shape[1])
        # the rows of the key's weights attend to the pixels: no [H * D, N] is ever there
        rows = key.reshape(per_head).transpose(0, 1).expand(len(sample), -1, -1, -1)
        pixels = sample[:, :, None].expand(-1, -1, self.num_heads, -1)
        means = attention(rows, pixels, pixels, scale=1.0).transpose(1, 2)  # [B, H, D, C]
        context = means @ value.reshape(per_head).transpose(1, 2)  # [B, H, D, D]
        merged = context.transpose(2, 3) @ query.reshape(per_head)  # [B, H, D, C]
        matrix = self.to_out.weight.flatten(1) @ merged.flatten(1, 2)
        assert self.to_out.bias is not None
        return matrix, self.to_out.bias


class RezeroAttention(nn.Module):
    """``x + g attention(x)`` with a learned number g that starts at zero (Bachlechner et al. 2020).

    Args:
        attention: What attends.
    """

    def __init__(self, attention: LinearAttention) -> None:
        super().__init__()
        self.fn = _Rezero(attention)

    def forward(self, sample: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to the same shape, in channels_last."""
        pixels = sample.permute(0, 2, 3, 1).flatten(1, 2)
        matrix, bias = self.fn.fn(pixels)
        gain = self.fn.g
        # x is a part of the product, which saves a pass over the pixels
        matrix = gain * matrix + torch.eye(pixels.shape[-1], dtype=matrix.dtype, device=gain.device)
        hidden = torch.baddbmm(gain * bias, pixels, matrix.transpose(1, 2))
        return hidden.reshape(-1, *sample.shape[2:], sample.shape[1]).permute(0, 3, 1, 2)


class _Rezero(nn.Module):
    """Holds the number and what it multiplies, under the names of the published checkpoints."""

    def __init__(self, attention: LinearAttention) -> None:
        super().__init__()
        self.fn = attention
        self.g = nn.Parameter(torch.zeros(1))
