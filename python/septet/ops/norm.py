"""Group normalisation with scale, shift, activation and mask in one read and one write."""

from __future__ import annotations

import torch
from torch import Tensor

from septet.ops import _library
from septet.ops._buffers import empty_channels_last, empty_like
from septet.ops._dispatch import dense, run, wants_reference

#: Activations the kernel knows, by the number it takes.
ACTIVATIONS = {"identity": 0, "silu": 1, "mish": 2}


def group_norm_act(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str = "identity",
    scale_shift: Tensor | None = None,
    mask: Tensor | None = None,
    rest: Tensor | None = None,
) -> Tensor:
    """Normalise groups of channels, then scale, shift, activate and mask.

    ``y = act(((x - mean) / sqrt(var + eps) * weight + bias) * (1 + scale) + shift) * mask``
    (Wu and He 2018; scale and shift: Dhariwal and Nichol 2021).

    Args:
        input: ``[N, C, ...]``, float32, float64, float16 or bfloat16, contiguous or
            channels_last; other layouts are copied.
        num_groups: Number of groups; divides C.
        weight: ``[C]``, of the dtype of ``input``.
        bias: ``[C]``, likewise.
        eps: Added to the variance.
        activation: "identity", "silu" or "mish".
        scale_shift: ``[N or 1, 2 * C]``: C scales, then C shifts.
        mask: ``[N, 1, ...]``.
        rest: ``[N, C', ...]``, further channels behind those of ``input``: the result is that of
            their concatenation, with C + C' channels. In channels_last on the CPU nothing is
            concatenated.

    Returns:
        A tensor like ``input``, in its layout.

    Raises:
        ValueError: If an argument does not fit the others; the message names it.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"septet.group_norm_act: activation must be one of {', '.join(ACTIVATIONS)}, got "
            f"{activation!r}"
        )
    if wants_reference(input, weight, bias, scale_shift, mask, rest):
        from septet.testing.references.norm import group_norm_act as reference

        return reference(
            input,
            num_groups,
            weight,
            bias,
            eps,
            activation=activation,
            scale_shift=scale_shift,
            mask=mask,
            rest=rest,
        )
    if rest is not None and not (_is_channels_last(input) and _is_channels_last(rest)):
        input, rest = torch.cat([input, rest], dim=1), None
    input = dense(input)
    if rest is None:
        out = empty_like(input)
    else:
        batch, channels, height, width = input.shape
        out = empty_channels_last(input, (batch, channels + rest.shape[1], height, width))
    run(
        _library.ops().group_norm_act.default,
        input,
        rest,
        num_groups,
        weight,
        bias,
        eps,
        ACTIVATIONS[activation],
        scale_shift if scale_shift is None else scale_shift.contiguous(),
        mask if mask is None else mask.contiguous(),
        out,
    )
    return out


def _is_channels_last(tensor: Tensor) -> bool:
    """Tell whether the kernel can read a tensor beside another one."""
    return (
        tensor.device.type == "cpu"
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )
