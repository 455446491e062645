"""Group normalisation with scale, shift, activation and mask in one read and one write."""

from __future__ import annotations

from torch import Tensor

from septet.ops import _library
from septet.ops._buffers import empty_like
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
    if wants_reference(input, weight, bias, scale_shift, mask):
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
        )
    input = dense(input)
    out = empty_like(input)
    run(
        _library.ops().group_norm_act.default,
        input,
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
