"""The search for a short noise schedule with BDDM's schedule network (Lam et al. 2022, section 3).

The network predicts the next smaller beta from the waveform; so a schedule follows from its
noisiest step. The search tries a grid of those and keeps, for every number of steps, the best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from septet.schedulers import BDDMScheduler, NoiseSchedule
from septet.schedulers.noise_schedule import noise_level_to_timestep

#: Judges a waveform; of two results the one better in every number is better.
Judge = Callable[[Tensor], "Sequence[float] | float"]

#: How far the last tries stray from the best start found: 5 %.
_SPREAD = 0.05


@dataclass(frozen=True)
class ScheduleFollower:
    """Follows a schedule from its noisiest step to the least noisy one.

    Attributes:
        predict: Maps ``(sample, timestep)`` to the noise in the sample.
        next_beta: Maps ``(sample, beta, variance)`` to the next smaller beta.
        draw: Draws noise of the sample's shape.
        scheduler: Knows the training process.
        max_steps: Steps at most.
    """

    predict: Callable[[Tensor, float], Tensor]
    next_beta: Callable[[Tensor, Tensor, Tensor], Tensor]
    draw: Callable[[], Tensor]
    scheduler: BDDMScheduler
    max_steps: int

    def __call__(self, alpha: float, beta: float, method: str = "ddpm") -> NoiseSchedule:
        """Find the schedule that begins with a noise level and a beta.

        Args:
            alpha: Square root of ``alphas_cumprod`` at the noisiest step.
            beta: Its beta.
            method: How to go on: "ddpm" or "ddim".

        Returns:
            At most ``max_steps`` steps. In float32 like the authors'.
        """
        train_alphas = self.scheduler.train_alphas
        min_beta = float(self.scheduler.betas.min())
        sample = self.draw()
        level, beta_now = (torch.full((1,), value, device=sample.device) for value in (alpha, beta))
        betas: list[float] = []
        for step in range(self.max_steps - 1, -1, -1):
            betas.append(float(beta_now))
            noise_pred = self.predict(sample, noise_level_to_timestep(float(level), train_alphas))
            next_level = level / (1 - beta_now).sqrt()
            if method == "ddim":
                sample = _ddim_step(sample, noise_pred, level, next_level)
            else:
                noise = self.draw() if step else None
                sample = _ddpm_step(sample, noise_pred, level, next_level, beta_now, noise)
            level = next_level
            if level > 1:
                break
            beta_now = self.next_beta(sample, beta_now, 1 - level**2)
            if beta_now < min_beta:
                break
        return NoiseSchedule.from_betas(betas[::-1], train_alphas)


def _ddim_step(sample: Tensor, noise_pred: Tensor, level: Tensor, next_level: Tensor) -> Tensor:
    ratio = next_level / level
    clean = ratio * sample - (1 - level**2).sqrt() * ratio * noise_pred
    # beyond the clean waveform the root has no value; the search ends there
    return clean + (1 - next_level**2).sqrt() * noise_pred


def _ddpm_step(
    sample: Tensor,
    noise_pred: Tensor,
    level: Tensor,
    next_level: Tensor,
    beta: Tensor,
    noise: Tensor | None,
) -> Tensor:
    sample = sample - beta / (1 - level**2).sqrt() * noise_pred
    sample = sample / (1 - beta).sqrt()
    if noise is None:
        return sample
    return sample + ((1 - next_level**2) / (1 - level**2) * beta).sqrt() * noise


def starting_points(train_alphas: np.ndarray, bins: int) -> list[tuple[float, float]]:
    """Return the grid of (alpha, beta) at which schedules may begin.

    Args:
        train_alphas: ``[T]`` square roots of ``alphas_cumprod`` of the training steps.
        bins: Values of each.
    """
    last, first = float(train_alphas[-1]), float(train_alphas[0])
    alphas = [last + (first - last) / (bins + 1) * (i + 1) for i in range(bins)]
    betas = [1.0 / (bins + 1) * (i + 1) for i in range(bins)]
    # a larger alpha would leave more than the whole signal before this step
    return [(alpha, beta) for beta in betas for alpha in alphas if alpha <= (1 - beta) ** 0.5]


@dataclass(frozen=True)
class SearchResult:
    """The best schedule of its number of steps.

    Attributes:
        schedule: The schedule.
        scores: What the judge said.
        start: The (alpha, beta) it began with.
    """

    schedule: NoiseSchedule
    scores: tuple[float, ...]
    start: tuple[float, float]


class ScheduleSearch:
    """Tries starting points and keeps the best schedule for every number of steps.

    Args:
        follow: Finds the schedule of a starting point.
        sample: Makes a waveform with a schedule.
        judge: Judges it.

    Attributes:
        best: The results by number of steps.
    """

    def __init__(
        self, follow: ScheduleFollower, sample: Callable[[NoiseSchedule], Tensor], judge: Judge
    ) -> None:
        self.follow, self.sample, self.judge = follow, sample, judge
        self.best: dict[int, SearchResult] = {}

    def run(self, bins: int, attempts: int, seed: int = 0) -> dict[int, SearchResult]:
        """Try the grid, then the neighbourhood of every best start.

        Args:
            bins: See :func:`starting_points`.
            attempts: Random starts near the best of each number of steps.
            seed: For those.
        """
        for start in starting_points(self.follow.scheduler.train_alphas, bins):
            self.attempt(start)
        random = np.random.default_rng(seed)
        for found in list(self.best.values()):
            for _ in range(attempts):
                alpha, beta = np.array(found.start) * random.uniform(
                    1 - _SPREAD, 1 + _SPREAD, size=2
                )
                if beta < 1 and alpha < 1:
                    self.attempt((float(alpha), float(beta)))
        return self.best

    def attempt(self, start: tuple[float, float]) -> None:
        """Follow a start with both methods and keep what is better than before."""
        for method in ("ddpm", "ddim"):
            schedule = self.follow(*start, method)
            judged = self.judge(self.sample(schedule))
            scores = tuple(judged) if isinstance(judged, Sequence) else (float(judged),)
            known = self.best.get(len(schedule))
            if known is None or all(a > b for a, b in zip(scores, known.scores, strict=True)):
                self.best[len(schedule)] = SearchResult(schedule, scores, start)
