"""Softmax attention from token-major queries, keys and values, without transposes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from septet.ops import _library
from septet.ops._buffers import empty_contiguous
from septet.ops._dispatch import run, wants_reference
from septet.ops.attention_table import chosen

# The dtypes of the kernel, by their names in the table; float64 serves accuracy checks and has
# the reference.
_DTYPES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float64: "float64",
}


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
        query: ``[B, T, H, D]``: B samples, T tokens, H heads of width D; float32, float64, float16
            or bfloat16. Views with any strides over B, T and H will do, such as slices of a
            packed projection.
        key: ``[B, S, H, D]``, of the dtype of ``query``, as are all others.
        value: ``[B, S, H, D]``.
        scale: Factor of the logits, ``D ** -0.5`` if None.
        bias: Added to the logits, broadcastable to ``[B, H, T, P + S]``. A key with bias -inf has
            no part in the result; where all keys have that, the result is 0.
        prefix_key: ``[B, P, H, D]``, keys in front of ``key``, such as those of a text (GLIDE,
            Nichol et al. 2021).
        prefix_value: ``[B, P, H, D]``, given if and only if ``prefix_key`` is.

    Returns:
        ``[B, T, H, D]``, contiguous.

    Raises:
        ValueError: If an argument does not fit the others; the message names it.
    """
    keys = _checked_keys(query, key, value, prefix_key, prefix_value)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    if bias is not None:
        bias = _expanded(bias, query, keys)
    if query.dtype == torch.float64 or wants_reference(
        query, key, value, bias, prefix_key, prefix_value
    ):
        from septet.testing.references.attention import attention as reference

        return reference(
            query,
            key,
            value,
            scale=scale,
            bias=bias,
            prefix_key=prefix_key,
            prefix_value=prefix_value,
        )
    dtype = _DTYPES[query.dtype]
    if chosen(query.device.type, dtype, query.shape[1], keys, query.shape[3]) == "sdpa":
        return sdpa(
            query,
            key,
            value,
            scale=scale,
            bias=bias,
            prefix_key=prefix_key,
            prefix_value=prefix_value,
        )
    out = empty_contiguous(query)
    run(
        _library.ops().attention.default,
        _rows(query),
        _rows(key),
        _rows(value),
        bias,
        None if prefix_key is None else _rows(prefix_key),
        None if prefix_value is None else _rows(prefix_value),
        scale,
        out,
    )
    return out


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    prefix_key: Tensor | None = None,
    prefix_value: Tensor | None = None,
) -> Tensor:
    """Compute the same with torch's kernels; arguments as :func:`attention`, not checked."""
    if prefix_key is not None and prefix_value is not None:
        key = torch.cat([prefix_key, key], dim=1)
        value = torch.cat([prefix_value, value], dim=1)
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), bias, scale=scale
    )
    return out.transpose(1, 2).contiguous()


def _rows(tensor: Tensor) -> Tensor:
    """Return the tensor itself if its last dimension is dense, else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _checked_keys(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor | None,
    prefix_value: Tensor | None,
) -> int:
    """Return how many keys there are, P + S; the kernel checks the same where it is called."""
    if query.dtype not in _DTYPES:
        names = ", ".join(_DTYPES.values())
        raise ValueError(
            f"septet.attention: query must be one of {names}, got {_name(query.dtype)}"
        )
    if query.dim() != 4 or query.shape[3] == 0:
        raise ValueError(f"septet.attention: query must be [B, T, H, D], got {list(query.shape)}")
    if (prefix_key is None) != (prefix_value is None):
        raise ValueError("septet.attention: prefix_key and prefix_value must be given together")
    _check_tokens("key", key, query)
    _check_tokens("value", value, query, key.shape[1])
    keys = key.shape[1]
    if prefix_key is not None and prefix_value is not None:
        _check_tokens("prefix_key", prefix_key, query)
        _check_tokens("prefix_value", prefix_value, query, prefix_key.shape[1])
        keys += prefix_key.shape[1]
    if keys == 0:
        raise ValueError("septet.attention: key must have at least one token")
    return keys


def _check_tokens(name: str, tensor: Tensor, query: Tensor, tokens: int | None = None) -> None:
    batch, _, heads, width = query.shape
    shape = tensor.shape
    fits = len(shape) == 4 and shape[0] == batch and shape[2] == heads and shape[3] == width
    if not fits or (tokens is not None and shape[1] != tokens):
        wanted = f"[{batch}, {'tokens' if tokens is None else tokens}, {heads}, {width}]"
        raise ValueError(f"septet.attention: {name} must be {wanted}, got {list(shape)}")
    _check_like(name, tensor, query)


def _check_like(name: str, tensor: Tensor, query: Tensor) -> None:
    if tensor.dtype != query.dtype:
        raise ValueError(
            f"septet.attention: {name} must be {_name(query.dtype)} as query is, got "
            f"{_name(tensor.dtype)}"
        )
    if tensor.device != query.device:
        raise ValueError(
            f"septet.attention: {name} must be on {query.device} as query is, got {tensor.device}"
        )


def _expanded(bias: Tensor, query: Tensor, keys: int) -> Tensor:
    _check_like("bias", bias, query)
    shape = (query.shape[0], query.shape[2], query.shape[1], keys)
    try:
        return bias.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"septet.attention: bias must broadcast to {list(shape)}, got {list(bias.shape)}"
        ) from None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
