"""The sampler step in plain torch: what ``septet::step`` must compute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from septet.ops.table import CURRENT_OUTPUT, NO_SLOT, UNUSED, NoiseKind, StepRow
from septet.testing.references.noise import philox_normal


def step(
    sample: Tensor,
    model_output: Tensor,
    table: Tensor,
    row: int,
    *,
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
) -> tuple[Tensor, Tensor]:
    """Return ``(prev_sample, pred_original_sample)``; arguments as :func:`septet.ops.step`.

    Arithmetic is float32 for half-precision samples, else the sample's own type; ``slots`` are
    updated in place.
    """
    row += 0 if counter is None else int(counter)
    r = StepRow.from_list(table[row].double().tolist())
    storage = sample.dtype
    acc = storage if storage in (torch.float32, torch.float64) else torch.float32
    x = sample.to(acc)
    channels = sample.shape[1] if sample.dim() > 1 else 0
    learned = r.noise_kind in (NoiseKind.LEARNED, NoiseKind.LEARNED_RANGE)

    m = model_output[:, :channels].to(acc) if channels else model_output.to(acc)
    if uncond_output is not None:
        u = uncond_output[:, :channels].to(acc) if channels else uncond_output.to(acc)
        m = u + r.guidance_scale * (m - u)

    y = x
    kept = stored if slots is None else slots
    if r.base_slot != NO_SLOT:
        y = kept[r.base_slot].to(acc).clone()  # the row may write this very slot
    combined = torch.zeros_like(m)
    for slot, weight in zip(r.read_slots, r.weights, strict=True):
        if slot == CURRENT_OUTPUT:
            combined = combined + weight * m
        elif slot != UNUSED:
            combined = combined + weight * kept[slot].to(acc)
    if slots is not None:
        if r.save_slot != NO_SLOT:
            slots[r.save_slot] = x.detach().to(storage)
        if r.write_slot != NO_SLOT:
            slots[r.write_slot] = m.detach().to(storage)

    x0 = (r.x0_sample * x + r.x0_output * combined) / r.x0_divisor
    if threshold is not None:
        s = threshold.to(acc).reshape(-1, *[1] * (x.dim() - 1))
        x0 = x0.clamp(-s, s) / s
    else:
        x0 = x0.clamp(-r.x0_clip, r.x0_clip)

    prev = r.base * y + r.output * combined
    if r.pred_original != 0:
        prev = prev + r.pred_original * x0
    if mu is not None:
        prev = prev + r.prior_mean * mu.to(acc)
    if r.noise_kind != NoiseKind.NONE:
        if noise is None and philox is not None:
            noise = torch.empty_like(sample)
            offset = torch.tensor([[0, row * philox_increment]], device=philox.device)
            noise.copy_(
                philox_normal(philox + offset, tuple(sample.shape), storage, philox_threads)
            )
        if noise is not None:
            scale: Tensor | float = r.noise
            if learned:
                v = model_output[:, channels:].to(acc)
                if r.noise_kind == NoiseKind.LEARNED:
                    scale = r.noise * v.sqrt()
                else:
                    span = r.log_variance_high - r.log_variance_low
                    scale = r.noise * (0.5 * (r.log_variance_low + (v + 1) / 2 * span)).exp()
            prev = prev + scale * noise.to(acc)
    if mask is not None:
        prev = prev * mask.to(acc)
    return prev.to(storage), x0.to(storage)
