"""GLIDE's samplers: DDPM with a learned variance, and DDIM, over respaced timesteps.

Sources: Nichol and Dhariwal (2021) for the variance and the respacing, Song et al. (2021) for
DDIM, and the code of GLIDE (Nichol et al. 2021). Names as in :mod:`septet.schedulers.ddpm`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from septet.config import check_bool, check_choice
from septet.ops import NoiseKind, StepRow
from septet.random import Generators
from septet.schedulers.base import Scheduler
from septet.schedulers.config import record_config
from septet.schedulers.output import SchedulerOutput
from septet.schedulers.table import StepTable, make_rows
from septet.schedulers.timesteps import Respacing, respaced_timesteps

SAMPLERS = ("ddpm", "ddim")


class GLIDEScheduler(Scheduler):
    """Samples with a network that predicts noise and its variance, over chosen timesteps.

    The timesteps kept make a diffusion process of their own, with its own betas; the network is
    told the original timesteps.

    Args:
        num_train_timesteps: Number of training steps T.
        beta_start, beta_end: Ends of the linear schedule, in (0, 1).
        beta_schedule: "squaredcos_cap_v2" (the base model), "linear" (the upsampler), or another
            one of :class:`septet.DDPMScheduler`.
        trained_betas: ``[T]`` betas to use instead.
        sampler: "ddpm", whose variance the network chooses between the posterior's and beta, or
            "ddim".
        clip_sample: Whether to clamp the estimate of the clean sample.
        clip_sample_range: The clamp is to plus/minus this.

    Raises:
        ValueError: If an argument makes no sense.
    """

    @record_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "squaredcos_cap_v2",
        trained_betas: Sequence[float] | np.ndarray | None = None,
        sampler: str = "ddpm",
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
    ) -> None:
        check_choice("sampler", sampler, SAMPLERS)
        check_bool("clip_sample", clip_sample)
        self._set_up()

    def set_timesteps(
        self, num_inference_steps: Respacing, device: str | torch.device | None = None
    ) -> None:
        """Choose the timesteps of the next run.

        Args:
            num_inference_steps: A number, or any other respacing: "fast27", "ddim25", "10,5",
                ``[10, 5]``; see :func:`septet.schedulers.timesteps.respaced_timesteps`.
            device: Device of :attr:`timesteps`, the CPU if not given.

        Raises:
            ValueError: If that is no respacing, or does not fit the training steps.
        """
        chosen = respaced_timesteps(self.config.num_train_timesteps, num_inference_steps)
        self._use_timesteps(chosen[::-1], len(chosen), device)

    def table(self, eta: float = 0.0) -> StepTable:
        """Return the coefficients of all steps.

        Noise is drawn for every row, for the last one and where its factor is zero too: so the
        original does, and its seeds give the same images here.

        Args:
            eta: For the sampler "ddim": 0 adds no noise, 1 as much as DDPM.

        Raises:
            ValueError: If ``eta`` is not from 0 to 1.
        """
        eta = float(eta)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be a number from 0 to 1, got {eta}")
        key = eta if self.config.sampler == "ddim" else None
        table = self._tables.get(key)
        if table is None:
            timesteps = [int(t) for t in self._timesteps]
            # The original computes alphas_cumprod anew, from the betas of the new process.
            kept = self._alpha_cumprod(timesteps[::-1])
            betas = 1 - kept / torch.cat([torch.ones_like(kept[:1]), kept[:-1]])
            rows = self._ddpm_rows(betas) if key is None else self._ddim_rows(betas, eta)
            table = self._tables[key] = StepTable(rows[::-1], self._timesteps)
        return table

    def _ddpm_rows(self, betas: Tensor) -> list[StepRow]:
        """Return the rows in ascending order (Ho et al. 2020, eq. 7; Nichol 2021, eq. 15)."""
        alpha_prod_t, alpha_prod_t_prev = _cumprods(betas)
        posterior_variance = betas * (1 - alpha_prod_t_prev) / (1 - alpha_prod_t)
        # The first is zero; the original takes the logarithm of the second instead.
        low = torch.cat([posterior_variance[1:2], posterior_variance[1:]])
        low = low if len(low) else betas
        rows = make_rows(
            {
                **self._estimate_columns(alpha_prod_t),
                "pred_original": betas * alpha_prod_t_prev.sqrt() / (1 - alpha_prod_t),
                "base": (1 - alpha_prod_t_prev) * (1 - betas).sqrt() / (1 - alpha_prod_t),
                "output": 0.0,
                "noise_kind": NoiseKind.LEARNED_RANGE,
                "noise": 1.0,
                "log_variance_low": low.log(),
                "log_variance_high": betas.log(),
            }
        )
        return [replace(rows[0], noise_kind=NoiseKind.CONSTANT, noise=0.0), *rows[1:]]

    def _ddim_rows(self, betas: Tensor, eta: float) -> list[StepRow]:
        """Return the rows in ascending order (Song et al. 2021, eq. 12 and 16).

        The noise is derived again from the clamped estimate of the clean sample.
        """
        alpha_prod_t, alpha_prod_t_prev = _cumprods(betas)
        variance = (1 - alpha_prod_t_prev) / (1 - alpha_prod_t)
        std_dev_t = eta * (variance * (1 - alpha_prod_t / alpha_prod_t_prev)).clamp(min=0).sqrt()
        direction = (1 - alpha_prod_t_prev - std_dev_t**2).clamp(min=0).sqrt()
        base = direction / (1 - alpha_prod_t).sqrt()
        return make_rows(
            {
                **self._estimate_columns(alpha_prod_t),
                "pred_original": alpha_prod_t_prev.sqrt() - base * alpha_prod_t.sqrt(),
                "base": base,
                "output": 0.0,
                "noise_kind": NoiseKind.CONSTANT,
                "noise": std_dev_t,
            }
        )

    def _estimate_columns(self, alpha_prod_t: Tensor) -> dict[str, Tensor | float]:
        """Return the columns that turn predicted noise into an estimate of the clean sample."""
        config = self.config
        return {
            "x0_sample": 1.0,
            "x0_output": -((1 - alpha_prod_t).sqrt()),
            "x0_divisor": alpha_prod_t.sqrt(),
            "x0_clip": config.clip_sample_range if config.clip_sample else math.inf,
        }

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        generator: Generators = None,
        return_dict: bool = True,
        *,
        variance_noise: Tensor | None = None,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """Go from one timestep to the next.

        Args:
            model_output: ``[B, 2 * C, ...]``: noise, and where its log variance lies in its range,
                from -1 to 1. For the sampler "ddim" ``[B, C, ...]`` will do.
            timestep: One of :attr:`timesteps`.
            sample: ``[B, C, ...]``, the sample at that timestep.
            eta: See :meth:`table`.
            generator: Where the noise comes from; some is drawn in every step.
            return_dict: Whether to return an object instead of a tuple.
            variance_noise: ``[B, C, ...]`` noise to use instead.

        Returns:
            The next sample and the estimate of the clean one (:class:`SchedulerOutput` computes
            that when it is first read).

        Raises:
            ValueError: If the timestep is not among :attr:`timesteps`, or a tensor does not fit.
        """
        table = self.table(eta)
        row = table.row_of(int(timestep))
        if row is None:
            raise ValueError(f"timestep {int(timestep)} is not one of those that were set")
        return self._apply(table, row, model_output, sample, generator, variance_noise, return_dict)


def _cumprods(betas: Tensor) -> tuple[Tensor, Tensor]:
    """Return alphas_cumprod of ascending betas, and the same one step earlier."""
    cumprod = torch.cumprod(1 - betas, dim=0)
    return cumprod, torch.cat([torch.ones_like(cumprod[:1]), cumprod[:-1]])
