"""Softmax attention from token-major queries, keys and values, without transposes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    prefix_key: Tensor | None = None,
    prefix_value: Tensor | None = None,
) -> Tensor:
    """Compute ``softmax(scale * query key^T + bias) value`` per head (Vaswani et al. 2017).

    Args:
        query: ``[B, T, H, D]``: B samples, T tokens, H heads of width D. Views with any strides
            over B, T and H will do, such as slices of a packed projection.
        key: ``[B, S, H, D]``.
        value: ``[B, S, H, D]``.
        scale: Factor of the logits, ``D ** -0.5`` if None.
        bias: Added to the logits, broadcastable to ``[B, H, T, P + S]``.
        prefix_key: ``[B, P, H, D]``, keys in front of ``key``, such as those of a text (GLIDE,
            Nichol et al. 2021).
        prefix_value: ``[B, P, H, D]``, given if and only if ``prefix_key`` is.

    Returns:
        ``[B, T, H, D]``, contiguous.

    Raises:
        ValueError: If only one of ``prefix_key`` and ``prefix_value`` is given.
    """
    if (prefix_key is None) != (prefix_value is None):
        raise ValueError("septet.attention: prefix_key and prefix_value must be given together")
    if prefix_key is not None and prefix_value is not None:
        key = torch.cat([prefix_key, key], dim=1)
        value = torch.cat([prefix_value, value], dim=1)
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), bias, scale=scale
    )
    return out.transpose(1, 2).contiguous()
