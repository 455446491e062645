"""A layer of DiffWave in one pass over the positions."""

from __future__ import annotations

import torch
from torch import Tensor

from septet.ops import _library
from septet.ops._buffers import empty_contiguous
from septet.ops._dispatch import run, wants_reference


def wavenet_layer(
    input: Tensor,
    step: Tensor,
    mel: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual_weight: Tensor,
    residual_bias: Tensor,
    skip_weight: Tensor,
    skip_bias: Tensor,
    *,
    dilation: int,
    mask: Tensor | None = None,
    skips: Tensor | None = None,
    is_last: bool = False,
) -> tuple[Tensor | None, Tensor]:
    """Run one layer of DiffWave (Kong et al. 2021, figure 2) in the variant of BDDM.

    With ``s = (input + step) * mask``, the dilated convolution ``f, g = conv3(s) + bias + mel`` and
    ``o = tanh(f) * sigmoid(g)``, the next layer's input is
    ``(s + residual_weight o + residual_bias) * sqrt(1/2)``, and
    ``skip_weight o + skip_bias`` is the layer's share of the output. On the CPU the convolution is
    Winograd's with four outputs, whose rounding errors are about twice those of a plain sum.

    Args:
        input: ``[B, N, C]``: B samples of N positions, float32, float64, float16 or bfloat16.
        step: ``[B or 1, C]``, the projected step embedding.
        mel: ``[B, N, 2 * C]``, the projected mel spectrogram, for filter and gate.
        weight: ``[2 * C, C, 3]``, of the dilated convolution.
        bias: ``[2 * C]``.
        residual_weight: ``[C, C, 1]``.
        residual_bias: ``[C]``.
        skip_weight: ``[S, C, 1]``.
        skip_bias: ``[S]``.
        dilation: Distance of the three taps, in positions.
        mask: ``[B, N]``, 0 beyond a sample's end.
        skips: ``[B, N, S]``, the sum of the earlier layers' shares; it may be overwritten.
        is_last: Whether nobody needs the input of a next layer.

    Returns:
        The next layer's input, ``[B, N, C]``, None if ``is_last``, and the sum of the shares with
        this layer's, ``[B, N, S]``.

    Raises:
        ValueError: If an argument does not fit the others; the message names it.
    """
    parameters = (weight, bias, residual_weight, residual_bias, skip_weight, skip_bias)
    if input.dtype == torch.float64 or wants_reference(input, step, mel, *parameters, mask, skips):
        from septet.testing.references.wavenet import wavenet_layer as reference

        return reference(
            input, step, mel, *parameters, dilation=dilation, mask=mask, skips=skips,
            is_last=is_last,
        )  # fmt: skip
    input = input.contiguous()
    out = None if is_last else empty_contiguous(input)
    accumulate = skips is not None
    if skips is None:
        skips = empty_contiguous(input[..., :1].expand(-1, -1, skip_weight.shape[0]))
    skips = skips.contiguous()
    run(
        _library.ops().wavenet_layer.default,
        input,
        step.contiguous(),
        mel.contiguous(),
        *(parameter.contiguous() for parameter in parameters),
        None if mask is None else mask.contiguous(),
        dilation,
        accumulate,
        out,
        skips,
    )
    return out, skips
