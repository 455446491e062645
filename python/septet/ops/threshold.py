"""The bound of dynamic thresholding: a quantile of the estimate of the clean sample."""

from __future__ import annotations

import torch
from torch import Tensor

from septet.ops import _library
from septet.ops._dispatch import dense, like, run, wants_reference


def threshold_quantile(
    sample: Tensor,
    model_output: Tensor,
    table: Tensor,
    row: int = 0,
    *,
    ratio: float,
    maximum: float,
    uncond_output: Tensor | None = None,
) -> Tensor:
    """Return the ``threshold`` of :func:`septet.ops.step` for dynamic thresholding.

    ``s = clamp(quantile(|x0|, ratio), 1, maximum)`` (Saharia et al. 2022, section 2.3), per sample,
    where x0 is the estimate that the step computes from the same arguments, before it is clipped.
    The quantile is that of ``torch.quantile`` with linear interpolation.

    Args:
        sample: ``[B, ...]``, float32, float64, float16 or bfloat16; any dense layout.
        model_output: ``[B, C, ...]`` or ``[B, 2C, ...]``.
        table: ``[rows, 24]`` float32 (float64 for a float64 sample), on the CPU or on the
            sample's device.
        row: Row of the table. It must not combine stored outputs; where the table is on a GPU, the
            bounds of such a row are NaN.
        ratio: The quantile, in [0, 1].
        maximum: Largest bound; the smallest is 1.
        uncond_output: The unconditional output, of the shape of ``model_output``.

    Returns:
        ``[B]``, in the table's dtype; NaN for a sample that has a NaN.

    Raises:
        ValueError: If an argument does not fit the others; the message names it.
    """
    if wants_reference(sample, model_output, uncond_output):
        from septet.testing.references.threshold import threshold_quantile as reference

        return reference(
            sample,
            model_output,
            table,
            row,
            ratio=ratio,
            maximum=maximum,
            uncond_output=uncond_output,
        )
    sample = dense(sample)
    out = torch.empty(sample.shape[:1], dtype=table.dtype, device=sample.device)
    run(
        _library.ops().threshold_quantile.default,
        sample,
        like(model_output, sample),
        table,
        row,
        like(uncond_output, sample),
        ratio,
        maximum,
        out,
    )
    return out
