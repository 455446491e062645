"""Implicit and generalised sampling (Song et al. 2021, "Denoising Diffusion Implicit Models").

Names here and in the paper: ``alpha_prod_t`` is alpha_t, ``std_dev_t`` sigma_t(eta),
``pred_original_sample`` f_theta(x_t).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from septet.ops import NoiseKind, StepRow
from septet.random import Generators
from septet.schedulers.base import Scheduler
from septet.schedulers.config import record_config
from septet.schedulers.output import SchedulerOutput
from septet.schedulers.table import StepTable, make_rows


class DDIMScheduler(Scheduler):
    """Samples along a non-Markovian process with few steps; ``eta`` sets how much noise is added.

    Args:
        num_train_timesteps: Number of training steps T.
        beta_start, beta_end: Ends of the noise schedule, in (0, 1).
        beta_schedule: "linear", "scaled_linear", "squaredcos_cap_v2", "laplace" or "sigmoid".
        trained_betas: ``[T]`` betas to use instead.
        clip_sample: Whether to clamp the estimate of the clean sample.
        set_alpha_to_one: Whether the last step leads to a clean sample (alphas_cumprod 1) or to
            the noise level of training step 0.
        steps_offset: Added to the timesteps of leading spacing.
        prediction_type: What the network predicts: "epsilon", "sample" or "v_prediction".
        thresholding: Whether to use dynamic thresholding (Saharia et al. 2022) instead of a clamp.
        dynamic_thresholding_ratio: Its quantile.
        clip_sample_range: The clamp is to plus/minus this.
        sample_max_value: Largest bound of dynamic thresholding.
        timestep_spacing: "leading", "linspace" or "trailing".
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
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
        *,
        table_dtype: str = "float64",
    ) -> None:
        self._set_up()

    def table(self, eta: float = 0.0, use_clipped_model_output: bool = False) -> StepTable:
        """Return the coefficients of all steps (Song et al. 2021, eq. 12 and 16).

        Args:
            eta: 0 adds no noise, 1 as much as DDPM.
            use_clipped_model_output: Whether to derive the noise direction again from the clamped
                estimate of the clean sample.

        Raises:
            ValueError: If no timesteps are set, or ``eta`` is negative, not finite, or so large
                that a step would need a negative variance.
        """
        return self._table(None, float(eta), bool(use_clipped_model_output))

    def _table(self, timestep: int | None, eta: float, reclip: bool) -> StepTable:
        """Return the table of one timestep, or of all that are set."""
        key = (timestep, eta, reclip)
        table = self._tables.get(key)
        if table is None:
            if not 0 <= eta < math.inf:
                raise ValueError(f"eta must be a finite number of at least 0, got {eta}")
            timesteps = self._timesteps if timestep is None else (timestep,)
            table = self._tables[key] = self._as_table(
                self._rows([int(t) for t in timesteps], eta, reclip), timesteps
            )
        return table

    def _rows(self, timesteps: Sequence[int], eta: float, reclip: bool) -> list[StepRow]:
        if self.num_inference_steps is None:
            raise ValueError("no timesteps are set; call set_timesteps first")
        stride = self.config.num_train_timesteps // self.num_inference_steps
        alpha_prod_t = self._alpha_cumprod(timesteps)
        alpha_prod_t_prev = self._alpha_cumprod([t - stride for t in timesteps])
        variance = (1 - alpha_prod_t_prev) / (1 - alpha_prod_t)
        variance = variance * (1 - alpha_prod_t / alpha_prod_t_prev)
        std_dev_t = eta * variance.clamp(min=0) ** 0.5
        _check_eta(eta, 1 - alpha_prod_t_prev - std_dev_t**2, timesteps)
        columns = self._x0_columns(alpha_prod_t)
        # rounded so far; what follows combines such numbers and rounds once
        direction = ((1 - alpha_prod_t_prev - std_dev_t**2).clamp(min=0) ** 0.5).double()
        root, noise_root = (alpha_prod_t**0.5).double(), ((1 - alpha_prod_t) ** 0.5).double()
        pred_original = (alpha_prod_t_prev**0.5).double()
        base: float | Tensor = 0.0
        output: float | Tensor = direction
        kind = self.config.prediction_type
        if reclip:
            base, output = direction / noise_root, 0.0
            pred_original = pred_original - base * root
        elif kind == "sample":
            base, output = direction / noise_root, -direction / noise_root * root
        elif kind == "v_prediction":
            base, output = direction * noise_root, direction * root
        return make_rows(
            columns
            | {
                "pred_original": pred_original,
                "base": base,
                "output": output,
                # the last step draws too, although its deviation may be 0: so does diffusers
                "noise_kind": NoiseKind.CONSTANT if eta > 0 else NoiseKind.NONE,
                "noise": std_dev_t,
            }
        )

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """Go from one timestep to the next.

        Args:
            model_output: ``[B, C, ...]``.
            timestep: Any training timestep, usually one of :attr:`timesteps`.
            sample: ``[B, C, ...]``, the sample at that timestep.
            eta: See :meth:`table`.
            use_clipped_model_output: See :meth:`table`.
            generator: Where the noise comes from; some is drawn in every step if ``eta > 0``.
            variance_noise: ``[B, C, ...]`` noise to use instead.
            return_dict: Whether to return an object instead of a tuple.

        Returns:
            The next sample and the estimate of the clean one (:class:`SchedulerOutput` computes
            that when it is first read).

        Raises:
            ValueError: If no timesteps are set, both noise and a generator are given, or an
                argument does not fit.
        """
        if eta > 0 and variance_noise is not None and generator is not None:
            raise ValueError("only one of generator and variance_noise can be given")
        timestep, eta, reclip = int(timestep), float(eta), bool(use_clipped_model_output)
        table = self._table(None, eta, reclip)
        row = table.row_of(timestep)
        if row is None:
            table, row = self._table(timestep, eta, reclip), 0
        return self._apply(table, row, model_output, sample, generator, variance_noise, return_dict)


def _check_eta(eta: float, direction_variance: Tensor, timesteps: Sequence[int]) -> None:
    """Raise ValueError where a step would need a negative variance, beyond rounding."""
    negative = direction_variance < -8 * torch.finfo(direction_variance.dtype).eps
    if negative.any():
        timestep = timesteps[int(negative.nonzero()[0])]
        raise ValueError(
            f"eta = {eta} is too large: at timestep {timestep} the step would need a negative "
            "variance"
        )
