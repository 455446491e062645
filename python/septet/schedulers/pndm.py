"""Pseudo numerical methods (Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models").

Names here and in the paper: ``alpha_prod_t`` is alpha-bar_t, a *transfer* the function phi of
equation 11. A run starts with three pseudo Runge-Kutta steps of four evaluations each
(algorithm 2, eq. 13) and goes on with the linear multistep rule of Adams and Bashforth (eq. 12).
``skip_prk_steps`` starts with lower orders of that rule instead (the PLMS sampler of Latent
Diffusion).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from septet import ops
from septet.ops import CURRENT_OUTPUT, NO_SLOT, UNUSED, StepRow
from septet.schedulers.base import Scheduler, SchedulerOutput
from septet.schedulers.config import record_config
from septet.schedulers.table import StepTable

#: Slots 0 to 2 hold the last three model outputs in turn.
_RING = 3
#: The sample that a group of evaluations starts from, and its second and third output.
_SAVED, _SECOND, _THIRD = 3, 4, 5
_PRK_EVALUATIONS = 12
_RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
#: Weights of the newest output and the ones before it, by how many there are before it.
_ADAMS_BASHFORTH = (
    (1.0, 0.0, 0.0, 0.0),
    (3 / 2, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class PNDMScheduler(Scheduler):
    """Samples without noise, with fourth-order accuracy per step.

    The scheduler keeps earlier model outputs between steps; :meth:`set_timesteps` forgets them.

    Args:
        num_train_timesteps: Number of training steps T.
        beta_start, beta_end: Ends of the noise schedule, in (0, 1).
        beta_schedule: "linear", "scaled_linear", "squaredcos_cap_v2", "laplace" or "sigmoid".
        trained_betas: ``[T]`` betas to use instead.
        skip_prk_steps: Whether to do without the Runge-Kutta steps.
        set_alpha_to_one: Whether the last step leads to a clean sample (alphas_cumprod 1) or to
            the noise level of training step 0.
        prediction_type: What the network predicts: "epsilon" or "v_prediction".
        timestep_spacing: "leading", "linspace" or "trailing".
        steps_offset: Added to the timesteps of leading spacing.

    Attributes:
        counter: Number of steps taken since :meth:`set_timesteps`.

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
        skip_prk_steps: bool = False,
        set_alpha_to_one: bool = False,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
    ) -> None:
        if prediction_type == "sample":
            raise ValueError(
                "prediction_type must be one of ('epsilon', 'v_prediction') for PNDM, got 'sample'"
            )
        self._slots: Tensor | None = None
        self.counter = 0
        self._set_up()
        if self._alphas_cumprod[-1] == 0:
            raise ValueError("trained_betas must be below 1: PNDM divides by alphas_cumprod")

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Choose the timesteps of the next run and forget the last one.

        Args:
            num_inference_steps: How many, 1 to ``num_train_timesteps``, at least 4 with
                Runge-Kutta steps. :attr:`timesteps` holds more: one per evaluation of the network.
            device: Device of :attr:`timesteps`, the CPU if not given.

        Raises:
            ValueError: If the number is out of range.
        """
        super().set_timesteps(num_inference_steps, device)
        self.counter = 0

    def _choose_timesteps(self, num_inference_steps: int) -> list[int]:
        spaced = self._spaced(num_inference_steps)
        if self.config.skip_prk_steps:
            # the second timestep is evaluated twice
            return [*spaced[:-1], *spaced[-2:-1], spaced[-1]][::-1]
        if num_inference_steps < 4:
            raise ValueError(
                "num_inference_steps must be at least 4 unless skip_prk_steps is set, got "
                f"{num_inference_steps}"
            )
        half = self.config.num_train_timesteps // num_inference_steps // 2
        stages = [t + shift for t in spaced[-4:] for shift in (0, half)][:-1]
        runge_kutta = [t for t in stages for _ in range(2)][1:-1]
        return [*runge_kutta[::-1], *spaced[:-3][::-1]]

    def table(self) -> StepTable:
        """Return the coefficients of all evaluations.

        Raises:
            ValueError: If no timesteps are set.
        """
        table = self._tables.get("all")
        if table is None:
            rows = [self._row(i, t) for i, t in enumerate(self._timesteps)]
            table = self._tables["all"] = self._as_table(rows, self._timesteps)
        return table

    def _as_table(self, rows: Sequence[StepRow], timesteps: Sequence[int]) -> StepTable:
        num_slots = _SAVED + 1 if self.config.skip_prk_steps else _THIRD + 1
        return StepTable(rows, timesteps, num_slots=num_slots)

    def _row(self, counter: int, timestep: int) -> StepRow:
        if self.num_inference_steps is None:
            raise ValueError("no timesteps are set; call set_timesteps first")
        stride = self.config.num_train_timesteps // self.num_inference_steps
        if self.config.skip_prk_steps:
            if counter == 1:
                # the first step again, with the mean of both outputs
                return self._transfer(
                    timestep + stride,
                    timestep,
                    timestep,
                    read_slots=(CURRENT_OUTPUT, 0, UNUSED, UNUSED),
                    weights=(0.5, 0.5, 0.0, 0.0),
                    base_slot=_SAVED,
                )
            stored = max(counter - 1, 0)
            save_slot = _SAVED if counter == 0 else NO_SLOT
        elif counter < _PRK_EVALUATIONS:
            return self._runge_kutta_row(counter, timestep, stride // 2)
        else:
            stored = counter - _PRK_EVALUATIONS + _RING
            save_slot = NO_SLOT
        earlier = [(stored - k) % _RING if k <= stored else UNUSED for k in (1, 2, 3)]
        return self._transfer(
            timestep,
            timestep - stride,
            timestep,
            read_slots=(CURRENT_OUTPUT, *earlier),
            weights=_ADAMS_BASHFORTH[min(stored, 3)],
            # the slot written may be the oldest one read: the step reads first
            write_slot=stored % _RING,
            save_slot=save_slot,
        )

    def _runge_kutta_row(self, counter: int, timestep: int, half: int) -> StepRow:
        group, stage = divmod(counter, 4)
        start = self._timesteps[4 * group]
        target = timestep if stage % 2 else timestep - half
        if stage < 3:
            return self._transfer(
                start,
                target,
                timestep,
                write_slot=(group, _SECOND, _THIRD)[stage],
                save_slot=_SAVED if stage == 0 else NO_SLOT,
                base_slot=_SAVED if stage > 0 else NO_SLOT,
            )
        return self._transfer(
            start,
            target,
            timestep,
            read_slots=(group, _SECOND, _THIRD, CURRENT_OUTPUT),
            weights=_RUNGE_KUTTA,
            base_slot=_SAVED,
        )

    def _transfer(self, start: int, target: int, timestep: int, **columns: Any) -> StepRow:
        """Return the row that moves a sample from one timestep to another (eq. 11).

        Args:
            start: Timestep of the sample that is moved.
            target: Timestep to move it to; below 0 is the end.
            timestep: Timestep of the network's input, for the estimate of the clean sample.
            **columns: What is stored and combined.
        """
        alpha_prod_t = self._alpha_cumprod(start)
        alpha_prod_t_prev = self._alpha_cumprod(target)
        beta_prod_t = 1 - alpha_prod_t
        base = math.sqrt(alpha_prod_t_prev / alpha_prod_t)
        output = -(alpha_prod_t_prev - alpha_prod_t) / (
            alpha_prod_t * math.sqrt(1 - alpha_prod_t_prev)
            + math.sqrt(alpha_prod_t * beta_prod_t * alpha_prod_t_prev)
        )
        if self.config.prediction_type == "v_prediction":
            # epsilon = sqrt(alpha_prod_t) v + sqrt(beta_prod_t) y
            base += output * math.sqrt(beta_prod_t)
            output *= math.sqrt(alpha_prod_t)
        return StepRow(
            **self._x0_columns(self._alpha_cumprod(timestep)),
            base=base,
            output=output,
            **columns,
        )

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Take the next step of the run.

        Args:
            model_output: ``[B, C, ...]``.
            timestep: ``timesteps[counter]``.
            sample: ``[B, C, ...]``, what the last step returned.
            return_dict: Whether to return an object instead of a tuple.

        Returns:
            The next sample.

        Raises:
            ValueError: If no timesteps are set, or a tensor does not fit.
        """
        counter, timestep = self.counter, int(timestep)
        table, row = self.table(), counter
        if counter >= len(table) or table.timesteps[counter] != timestep:
            table, row = self._as_table([self._row(counter, timestep)], (timestep,)), 0
        if counter == 0:
            self._slots = table.new_slots(sample)
        if model_output.dtype != sample.dtype:
            model_output = model_output.to(sample.dtype)
        prev_sample = ops.step(sample, model_output, table.on(sample), row, slots=self._slots)
        self.counter += 1
        return SchedulerOutput(prev_sample) if return_dict else (prev_sample,)
