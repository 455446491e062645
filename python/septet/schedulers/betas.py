"""Noise schedules: the beta of every training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid")


def _cosine(time: float) -> float:
    """alpha_bar of Nichol and Dhariwal (2021), equation 17."""
    return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(time: float) -> float:
    """alpha_bar of a log-SNR with a Laplace distribution (Hang et al. 2024)."""
    log_snr = -0.5 * math.copysign(1, 0.5 - time) * math.log(1 - 2 * abs(0.5 - time) + 1e-6)
    return math.sqrt(1 / (1 + math.exp(-log_snr)))


def _from_alpha_bar(alpha_bar: Callable[[float], float], count: int) -> list[float]:
    values = [alpha_bar(i / count) for i in range(count + 1)]
    return [min(1 - values[i + 1] / values[i], 0.999) for i in range(count)]


def make_betas(
    schedule: str,
    count: int,
    start: float,
    end: float,
    trained: Sequence[float] | npt.NDArray[Any] | None = None,
    rescale_zero_snr: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Compute the betas of a training process.

    Args:
        schedule: One of :data:`BETA_SCHEDULES`.
        count: Number of training steps.
        start: First beta of the schedules that have one, in (0, 1).
        end: Their last beta, in (0, 1).
        trained: Betas to use instead of a schedule.
        rescale_zero_snr: Whether to stretch the process so that its last step is pure noise.
        dtype: What to compute in. In float32 the operations are those of diffusers 0.42, in
            their order.

    Returns:
        ``[count]`` on the CPU, or as many as ``trained`` has.

    Raises:
        ValueError: If the schedule is unknown or a beta is outside (0, 1]; only the last may be 1.
    """
    if trained is not None:
        betas = torch.from_numpy(np.array(trained, dtype=np.float64)).to(dtype)
    else:
        betas = _scheduled_betas(schedule, count, start, end, dtype)
    if rescale_zero_snr:
        betas = _rescale_zero_snr(betas)
    valid = (betas > 0) & (betas < 1)
    if betas.ndim != 1 or not len(betas) or not valid[:-1].all() or not 0 < betas[-1] <= 1:
        name = "beta_schedule" if trained is None else "trained_betas"
        raise ValueError(f"{name} must give betas in (0, 1); only the last one may be 1")
    return betas


def _scheduled_betas(
    schedule: str, count: int, start: float, end: float, dtype: torch.dtype
) -> Tensor:
    if not 0 < start < 1 or not 0 < end < 1:
        raise ValueError(f"beta_start and beta_end must lie in (0, 1), got {start} and {end}")
    options: dict[str, Any] = {"dtype": dtype, "device": "cpu"}
    if schedule == "linear":
        return torch.linspace(start, end, count, **options)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, **options) ** 2
    if schedule == "squaredcos_cap_v2":
        return torch.tensor(_from_alpha_bar(_cosine, count), **options)
    if schedule == "laplace":
        return torch.tensor(_from_alpha_bar(_laplace, count), **options)
    if schedule == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, count, **options)) * (end - start) + start
    raise ValueError(f"beta_schedule must be one of {BETA_SCHEDULES}, got {schedule!r}")


def _rescale_zero_snr(betas: Tensor) -> Tensor:
    """Shift and scale sqrt(alphas_cumprod) so that it ends at 0 (Lin et al. 2023, algorithm 1)."""
    if len(betas) < 2:
        raise ValueError("rescale_betas_zero_snr needs at least two training steps")
    roots = torch.cumprod(1 - betas, dim=0).sqrt()
    first, last = roots[0], roots[-1]
    cumprod = ((roots - last) * (first / (first - last))) ** 2
    return 1 - torch.cat([cumprod[:1], cumprod[1:] / cumprod[:-1]])
