"""Ancestral sampling (Ho et al. 2020, "Denoising Diffusion Probabilistic Models").

Names here and in the paper: ``alpha_prod_t`` is alpha-bar_t, ``current_beta_t`` beta_t,
``pred_original_sample`` x_0, ``prev_sample`` x_{t-1}.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from septet.ops import NoiseKind, StepRow
from septet.random import Generators
from septet.schedulers.base import Scheduler
from septet.schedulers.config import record_config
from septet.schedulers.output import SchedulerOutput
from septet.schedulers.table import StepTable, make_rows

VARIANCE_TYPES = (
    "fixed_small",
    "fixed_small_log",
    "fixed_large",
    "fixed_large_log",
    "learned",
    "learned_range",
)
# diffusers' floor, so that the logarithm of a variance is finite
_MIN_VARIANCE = 1e-20


class DDPMScheduler(Scheduler):
    """Samples with the posterior of the diffusion process, adding noise in every step but the last.

    Args:
        num_train_timesteps: Number of training steps T.
        beta_start, beta_end: Ends of the noise schedule, in (0, 1).
        beta_schedule: "linear", "scaled_linear", "squaredcos_cap_v2", "laplace" or "sigmoid".
        trained_betas: ``[T]`` betas to use instead.
        variance_type: Variance of the noise added: "fixed_small" (that of the posterior) or
            "fixed_large" (beta), each also with the suffix "_log", which changes nothing here
            (diffusers gives NaN for "fixed_large_log"); "learned" (the network's second half of
            channels) or "learned_range" (which interpolates between the two logarithms; Nichol
            and Dhariwal 2021, eq. 15).
        clip_sample: Whether to clamp the estimate of the clean sample.
        prediction_type: What the network predicts: "epsilon", "sample" or "v_prediction".
        thresholding: Whether to use dynamic thresholding (Saharia et al. 2022) instead.
        dynamic_thresholding_ratio: Its quantile.
        clip_sample_range: The clamp is to plus/minus this.
        sample_max_value: Largest bound of dynamic thresholding.
        timestep_spacing: "leading", "linspace" or "trailing".
        steps_offset: Added to the timesteps of leading spacing.
        rescale_betas_zero_snr: Whether the last training step is to be pure noise (Lin et al.
            2023).
        table_dtype: What the coefficients are computed in: "float64", or "float32" with the
            operations of diffusers, for its last digits.

    Raises:
        ValueError: If an argument makes no sense.
    """

    @record_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | None = None,
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        *,
        table_dtype: str = "float64",
    ) -> None:
        if variance_type not in VARIANCE_TYPES:
            raise ValueError(
                f"variance_type must be one of {VARIANCE_TYPES}, got {variance_type!r}"
            )
        self._set_up()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps of the next run.

        Args:
            num_inference_steps: How many, 1 to ``num_train_timesteps``.
            device: Device of :attr:`timesteps`, the CPU if not given.
            timesteps: Descending timesteps to use as they are, instead of a number.

        Raises:
            ValueError: If both or neither are given, or a value is out of range.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("exactly one of num_inference_steps and timesteps must be given")
        if timesteps is None:
            assert num_inference_steps is not None
            super().set_timesteps(num_inference_steps, device)
            return
        chosen = [operator.index(t) for t in timesteps]
        limit = self.config.num_train_timesteps
        in_order = all(a > b for a, b in itertools.pairwise(chosen))
        if not chosen or not in_order or chosen[0] >= limit or chosen[-1] < 0:
            raise ValueError(
                f"timesteps must be integers from {limit - 1} down to 0, each smaller than the one "
                f"before, got {chosen}"
            )
        self._use_timesteps(chosen, None, device)

    def table(self) -> StepTable:
        """Return the coefficients of all steps (Ho et al. 2020, eq. 7)."""
        table = self._tables.get("all")
        if table is None:
            rows = self._rows([int(t) for t in self._timesteps])
            table = self._tables["all"] = self._as_table(rows, self._timesteps)
        return table

    def _rows(self, timesteps: list[int]) -> list[StepRow]:
        alpha_prod_t = self._alpha_cumprod(timesteps)
        alpha_prod_t_prev = self._alpha_cumprod([*timesteps[1:], -1])
        beta_prod_t, beta_prod_t_prev = 1 - alpha_prod_t, 1 - alpha_prod_t_prev
        current_alpha_t = alpha_prod_t / alpha_prod_t_prev
        current_beta_t = 1 - current_alpha_t
        posterior_variance = beta_prod_t_prev / beta_prod_t * current_beta_t
        columns = self._x0_columns(alpha_prod_t)
        columns |= self._noise_columns(posterior_variance, current_beta_t)
        columns["pred_original"] = alpha_prod_t_prev**0.5 * current_beta_t / beta_prod_t
        columns["base"] = current_alpha_t**0.5 * beta_prod_t_prev / beta_prod_t
        columns["output"] = 0.0
        rows = make_rows(columns)
        if timesteps[-1] == 0:
            rows[-1] = replace(rows[-1], noise_kind=NoiseKind.NONE, noise=0.0)
        return rows

    def _noise_columns(self, posterior_variance: Tensor, current_beta_t: Tensor) -> dict[str, Any]:
        small = posterior_variance.clamp(min=_MIN_VARIANCE)
        kind = self.config.variance_type
        if kind == "learned":
            return {"noise_kind": NoiseKind.LEARNED, "noise": 1.0}
        if kind == "learned_range":
            return {
                "noise_kind": NoiseKind.LEARNED_RANGE,
                "noise": 1.0,
                "log_variance_low": small.log(),
                "log_variance_high": current_beta_t.log(),
            }
        variance = current_beta_t if kind.startswith("fixed_large") else small
        return {"noise_kind": NoiseKind.CONSTANT, "noise": variance**0.5}

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
        *,
        variance_noise: Tensor | None = None,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """Go from one timestep to the next.

        Args:
            model_output: ``[B, C, ...]``, or ``[B, 2C, ...]`` with a learned variance.
            timestep: One of :attr:`timesteps`.
            sample: ``[B, C, ...]``, the sample at that timestep.
            generator: Where the noise comes from; none is drawn at timestep 0.
            return_dict: Whether to return an object instead of a tuple.
            variance_noise: ``[B, C, ...]`` noise to use instead.

        Returns:
            The next sample and the estimate of the clean one (:class:`SchedulerOutput` computes
            that when it is first read).

        Raises:
            ValueError: If the timestep is not among :attr:`timesteps`, or a tensor does not fit.
        """
        table = self.table()
        row = table.row_of(int(timestep))
        if row is None:
            raise ValueError(f"timestep {int(timestep)} is not one of those that were set")
        return self._apply(table, row, model_output, sample, generator, variance_noise, return_dict)
