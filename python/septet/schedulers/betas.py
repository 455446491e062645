"""Noise schedules: the beta of every training step, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid")


def _cosine(time: float) -> float:
    """alpha_bar of Nichol and Dhariwal (2021), equation 17."""
    return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(time: float) -> float:
    """alpha_bar of a log-SNR with a Laplace distribution (Hang et al. 2024)."""
    log_snr = -0.5 * math.copysign(1, 0.5 - time) * math.log(1 - 2 * abs(0.5 - time) + 1e-6)
    return math.sqrt(1 / (1 + math.exp(-log_snr)))


def _from_alpha_bar(alpha_bar: Callable[[float], float], count: int) -> Array:
    values = [alpha_bar(i / count) for i in range(count + 1)]
    return np.array([min(1 - values[i + 1] / values[i], 0.999) for i in range(count)])


def make_betas(
    schedule: str,
    count: int,
    start: float,
    end: float,
    trained: Sequence[float] | npt.NDArray[Any] | None = None,
    rescale_zero_snr: bool = False,
) -> Array:
    """Compute the betas of a training process.

    Args:
        schedule: One of :data:`BETA_SCHEDULES`.
        count: Number of training steps.
        start: First beta of the schedules that have one, in (0, 1).
        end: Their last beta, in (0, 1).
        trained: Betas to use instead of a schedule.
        rescale_zero_snr: Whether to stretch the process so that its last step is pure noise.

    Returns:
        ``[count]`` float64, or as many as ``trained`` has.

    Raises:
        ValueError: If the schedule is unknown or a beta is outside (0, 1]; only the last may be 1.
    """
    if trained is None and (not 0 < start < 1 or not 0 < end < 1):
        raise ValueError(f"beta_start and beta_end must lie in (0, 1), got {start} and {end}")
    if trained is not None:
        betas = np.array(trained, dtype=np.float64)
    elif schedule == "linear":
        betas = np.linspace(start, end, count)
    elif schedule == "scaled_linear":
        betas = np.linspace(math.sqrt(start), math.sqrt(end), count) ** 2
    elif schedule == "squaredcos_cap_v2":
        betas = _from_alpha_bar(_cosine, count)
    elif schedule == "laplace":
        betas = _from_alpha_bar(_laplace, count)
    elif schedule == "sigmoid":
        betas = (end - start) / (1 + np.exp(-np.linspace(-6, 6, count))) + start
    else:
        raise ValueError(f"beta_schedule must be one of {BETA_SCHEDULES}, got {schedule!r}")
    if rescale_zero_snr:
        betas = _rescale_zero_snr(betas)
    valid = (betas > 0) & (betas < 1)
    if betas.ndim != 1 or not betas.size or not valid[:-1].all() or not 0 < betas[-1] <= 1:
        name = "beta_schedule" if trained is None else "trained_betas"
        raise ValueError(f"{name} must give betas in (0, 1); only the last one may be 1")
    return betas


def _rescale_zero_snr(betas: Array) -> Array:
    """Shift and scale sqrt(alphas_cumprod) so that it ends at 0 (Lin et al. 2023, algorithm 1)."""
    roots = np.sqrt(np.cumprod(1 - betas))
    if len(roots) < 2:
        raise ValueError("rescale_betas_zero_snr needs at least two training steps")
    cumprod = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return np.concatenate([1 - cumprod[:1], 1 - cumprod[1:] / cumprod[:-1]])
