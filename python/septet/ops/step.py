"""The fused sampler step: guidance, combination, x0, update and noise in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

from torch import Tensor

from septet.ops import _library
from septet.ops._buffers import empty_like
from septet.ops._dispatch import dense, like, run, wants_reference


@overload
def step(
    sample: Tensor,
    model_output: Tensor,
    table: Tensor,
    row: int = 0,
    *,
    pred_original_sample: Literal[False] = False,
    **options: Any,
) -> Tensor: ...


@overload
def step(
    sample: Tensor,
    model_output: Tensor,
    table: Tensor,
    row: int = 0,
    *,
    pred_original_sample: Literal[True],
    **options: Any,
) -> tuple[Tensor, Tensor]: ...


@overload
def step(
    sample: Tensor,
    model_output: Tensor,
    table: Tensor,
    row: int = 0,
    *,
    pred_original_sample: bool,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]: ...


def step(  # type: ignore[misc]  # the overloads abbreviate the options
    sample: Tensor,
    model_output: Tensor,
    table: Tensor,
    row: int = 0,
    *,
    pred_original_sample: bool = False,
    uncond_output: Tensor | None = None,
    counter: Tensor | None = None,
    threshold: Tensor | None = None,
    mu: Tensor | None = None,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    philox: Tensor | None = None,
    philox_increment: int = 0,
    philox_threads: int = 0,
    slots: Tensor | None = None,
    stored: Sequence[Tensor] = (),
) -> Tensor | tuple[Tensor, Tensor]:
    """Apply one row of a sampler table (see :mod:`septet.ops.table` for the formula).

    Args:
        sample: ``[B, C, ...]``, float32, float64, float16 or bfloat16; any dense layout.
        model_output: ``[B, C, ...]``, or ``[B, 2C, ...]`` where the row has learned variance.
        table: ``[rows, 24]`` float32 (float64 for a float64 sample), on the CPU or on the
            sample's device.
        row: Row of the table.
        pred_original_sample: Also return the (clipped) estimate of the clean sample.
        uncond_output: The unconditional output, of the shape of ``model_output``: guidance is
            applied to its first C channels.
        counter: int64 scalar tensor on the sample's device that is added to ``row``, so that a
            captured graph can walk through the table.
        threshold: ``[B]``, in the table's dtype, at least 1: x0 is clamped to plus/minus it, then
            divided by it (dynamic thresholding, Saharia et al. 2022).
        mu: ``[B, C, ...]``, the prior mean of Grad-TTS.
        mask: ``[B, 1, ...]``, multiplies the result.
        noise: ``[B, C, ...]`` standard normal noise.
        philox: ``[1, 2]`` or ``[B, 2]`` int64 pairs (seed, offset): noise is drawn inside, as
            :func:`septet.ops.philox_normal` draws it. On the CPU or on the sample's device.
        philox_increment: The offset used is ``offset + row * philox_increment``.
        philox_threads: Thread count of torch's CUDA layout, 0 for the per-sample layout.
        slots: ``[K, B, C, ...]``, the stored outputs and samples that the row names; updated in
            place. ``slots[k]`` has the strides of ``sample``. At most 8.
        stored: The same as separate tensors, for callers that keep references instead of copies:
            it is only read, and what the row would store is theirs to put into it afterwards.
            Those behind the last that the row reads may be left out, but the first.

    Returns:
        The next sample, or the pair (next sample, estimate of the clean sample).

    Raises:
        ValueError: If an argument does not fit the others; the message names it.
    """
    if wants_reference(sample, model_output, uncond_output, mu, mask, noise, *stored):
        from septet.testing.references.step import step as reference

        prev, x0 = reference(
            sample,
            model_output,
            table,
            row,
            uncond_output=uncond_output,
            counter=counter,
            threshold=threshold,
            mu=mu,
            mask=mask,
            noise=noise,
            philox=philox,
            philox_increment=philox_increment,
            philox_threads=philox_threads,
            slots=slots,
            stored=stored,
        )
        return (prev, x0) if pred_original_sample else prev

    sample = dense(sample)
    strides = sample.stride()
    prev = empty_like(sample)
    original = empty_like(sample) if pred_original_sample else None
    kept = [t if t.stride() == strides else like(t, sample) for t in stored]
    if not pred_original_sample and (
        uncond_output is counter is threshold is mu is mask is noise is philox is slots is None
    ):
        run(_library.ops().step.plain, sample, like(model_output, sample), table, row, prev, kept)
        return prev
    run(
        _library.ops().step.default,
        sample,
        like(model_output, sample),
        table,
        row,
        prev,
        original,
        slots,
        kept,
        like(uncond_output, sample),
        counter,
        threshold,
        like(mu, sample),
        mask if mask is None else mask.contiguous(),
        like(noise, sample),
        philox,
        philox_increment,
        philox_threads,
    )
    return prev if original is None else (prev, original)
