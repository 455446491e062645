"""Softmax attention in plain torch."""

from __future__ import annotations

import torch
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
    """Return what :func:`septet.ops.attention` must return.

    Arithmetic is float32 for half-precision tensors, else their own type.
    """
    if prefix_key is not None and prefix_value is not None:
        key = torch.cat([prefix_key, key], dim=1)
        value = torch.cat([prefix_value, value], dim=1)
    acc = torch.float64 if query.dtype == torch.float64 else torch.float32
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = torch.einsum("bthd,bshd->bhts", query.to(acc) * scale, key.to(acc))
    if bias is not None:
        logits = logits + bias.to(acc)
    # a row whose logits are all -inf is 0, as in torch's scaled_dot_product_attention
    top = logits.detach().amax(dim=-1, keepdim=True)
    weights = (logits - top.masked_fill(top == -torch.inf, 0)).exp()
    total = weights.sum(dim=-1, keepdim=True)
    weights = weights / total.masked_fill(total == 0, 1)
    return torch.einsum("bhts,bshd->bthd", weights, value.to(acc)).contiguous().to(query.dtype)
