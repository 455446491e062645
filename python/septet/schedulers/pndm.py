"""Pseudo numerical methods (Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models").

Names here and in the paper: ``alpha_prod_t`` is alpha-bar_t, a *transfer* the function phi of
equation 11. A run starts with three pseudo Runge-Kutta steps of four evaluations each
(algorithm 2, eq. 13) and goes on with the linear multistep rule of Adams and Bashforth (eq. 12).
``skip_prk_steps`` starts with lower orders of that rule instead (the PLMS sampler of Latent
Diffusion).

Three conventions are in use, and checkpoints were judged with each, so ``variant`` selects one.
With the stride s = T // N between timesteps:

=========  ====================  ===========================  ===========================
variant    noise level at t      middle of Runge-Kutta steps  last step, from timestep 0
=========  ====================  ===========================  ===========================
modern     alphas_cumprod[t]     network at t - s + s // 2,   to ``final_alpha_cumprod``
                                 sample at t - s // 2
early      alphas_cumprod[t+1]   both at t - s + s // 2       none: the sample stays
original   alphas_cumprod[t+1]   network at t - s / 2,        to alphas_cumprod[0]
                                 sample at its floor
=========  ====================  ===========================  ===========================

"modern" is diffusers since 0.2 and takes exactly N timesteps. "early" is diffusers 0.0.4, and
"original" the authors' code (F-PNDM); both take all of ``range(0, T, s)``, which may be more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from septet import ops
from septet.ops import CURRENT_OUTPUT, NO_SLOT, UNUSED, StepRow
from septet.schedulers.base import Scheduler
from septet.schedulers.config import record_config
from septet.schedulers.output import SchedulerOutput
from septet.schedulers.table import StepTable, make_rows

#: Slots 0 to 2 hold the last three model outputs in turn.
_RING = 3
#: The sample that a group of evaluations starts from, and its second and third output.
_SAVED, _SECOND, _THIRD = 3, 4, 5
_PRK_EVALUATIONS = 12
VARIANTS = ("modern", "early", "original")
#: The values that variants other than "modern" need: the options came later.
_BEFORE_OPTIONS = {
    "skip_prk_steps": False,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
}
_RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
#: Weights of the newest output and the ones before it, by how many there are before it.
_ADAMS_BASHFORTH = (
    (1.0, 0.0, 0.0, 0.0),
    (3 / 2, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@dataclass(frozen=True)
class _Evaluation:
    """What happens after one evaluation of the network.

    Attributes:
        timestep: What the network was told.
        start: Timestep of the sample that is moved.
        target: Timestep to move it to; below 0 is the end.
        read_slots, weights, write_slot, save_slot, base_slot: See :class:`StepRow`.
    """

    timestep: float
    start: float
    target: float
    read_slots: tuple[int, int, int, int] = (CURRENT_OUTPUT, UNUSED, UNUSED, UNUSED)
    weights: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    write_slot: int = NO_SLOT
    save_slot: int = NO_SLOT
    base_slot: int = NO_SLOT


class PNDMScheduler(Scheduler):
    """Samples without noise, combining four outputs in every step.

    Between steps :meth:`step` keeps the last three or four model outputs and one sample: the
    tensors themselves, as diffusers does, not copies. So do not write to them in place while a run
    lasts. :meth:`set_timesteps` forgets them.

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
        table_dtype: What the coefficients are computed in: "float64", or "float32" with the
            operations of diffusers, for its last digits.
        variant: "modern", "early" or "original", see above; the latter two take none of the
            options from ``skip_prk_steps`` to ``steps_offset``.

    Attributes:
        counter: Number of steps taken since :meth:`set_timesteps`.

    Raises:
        ValueError: If an argument makes no sense.
    """

    _limits_x0: ClassVar[bool] = False

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
        *,
        table_dtype: str = "float64",
        variant: str = "modern",
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, got {variant!r}")
        for key, needed in _BEFORE_OPTIONS.items():
            if variant != "modern" and self.config[key] != needed:
                raise ValueError(
                    f"{key} must be {needed!r} for variant {variant!r}, got {self.config[key]!r}"
                )
        if prediction_type == "sample":
            raise ValueError(
                "prediction_type must be one of ('epsilon', 'v_prediction') for PNDM, got 'sample'"
            )
        self._stored: list[Tensor] = []
        self.counter = 0
        self._set_up()
        if self._cumprod[-1] == 0:
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
        self._stored = []

    def _choose_timesteps(self, num_inference_steps: int) -> list[int] | list[float]:
        stride = self.config.num_train_timesteps // num_inference_steps
        if self.config.variant == "modern":
            spaced = self._spaced(num_inference_steps)
        else:
            spaced = list(range(0, self.config.num_train_timesteps, stride))
        if self.config.skip_prk_steps:
            # the second timestep is evaluated twice
            return [*spaced[:-1], *spaced[-2:-1], spaced[-1]][::-1]
        if num_inference_steps < 4:
            raise ValueError(
                "num_inference_steps must be at least 4 unless skip_prk_steps is set, got "
                f"{num_inference_steps}"
            )
        if self.config.variant != "modern" and spaced[-1] == self.config.num_train_timesteps - 1:
            raise ValueError(
                f"num_inference_steps = {num_inference_steps} leads to timestep {spaced[-1]}, "
                f"which has no noise level in variant {self.config.variant!r}"
            )
        half = stride / 2 if self.config.variant == "original" else stride // 2
        stages = [t + shift for t in spaced[-4:] for shift in (0, half)][:-1]
        runge_kutta = [t for t in stages for _ in range(2)][1:-1]
        chosen = [*runge_kutta[::-1], *spaced[:-3][::-1]]
        return [float(t) for t in chosen] if self.config.variant == "original" else chosen

    def table(self) -> StepTable:
        """Return the coefficients of all evaluations.

        Raises:
            ValueError: If no timesteps are set.
        """
        table = self._tables.get("all")
        if table is None:
            evaluations = [self._evaluation(i, t) for i, t in enumerate(self._timesteps)]
            table = self._tables["all"] = self._table(evaluations)
        return table

    def _evaluation(self, counter: int, timestep: float) -> _Evaluation:
        if self.num_inference_steps is None:
            raise ValueError("no timesteps are set; call set_timesteps first")
        stride = self.config.num_train_timesteps // self.num_inference_steps
        if self.config.skip_prk_steps:
            if counter == 1:
                # the first step again, with the mean of both outputs
                return _Evaluation(
                    timestep,
                    start=timestep + stride,
                    target=timestep,
                    read_slots=(CURRENT_OUTPUT, 0, UNUSED, UNUSED),
                    weights=(0.5, 0.5, 0.0, 0.0),
                    base_slot=_SAVED,
                )
            stored = max(counter - 1, 0)
            save_slot = _SAVED if counter == 0 else NO_SLOT
        elif counter < _PRK_EVALUATIONS:
            return self._runge_kutta(counter, timestep, stride // 2)
        else:
            stored = counter - _PRK_EVALUATIONS + _RING
            save_slot = NO_SLOT
        end = {"modern": -stride, "early": 0, "original": -1}[self.config.variant]
        first, second, third = ((stored - k) % _RING if k <= stored else UNUSED for k in (1, 2, 3))
        return _Evaluation(
            timestep,
            start=timestep,
            target=max(timestep - stride, end),
            read_slots=(CURRENT_OUTPUT, first, second, third),
            weights=_ADAMS_BASHFORTH[min(stored, 3)],
            # the slot written may be the oldest one read: the step reads first
            write_slot=stored % _RING,
            save_slot=save_slot,
        )

    def _runge_kutta(self, counter: int, timestep: float, half: int) -> _Evaluation:
        group, stage = divmod(counter, 4)
        start = self._timesteps[4 * group]
        if self.config.variant != "modern":
            target = self._timesteps[counter | 1]
        else:
            target = timestep if stage % 2 else timestep - half
        if stage < 3:
            return _Evaluation(
                timestep,
                start,
                target,
                write_slot=(group, _SECOND, _THIRD)[stage],
                save_slot=_SAVED if stage == 0 else NO_SLOT,
                base_slot=_SAVED if stage > 0 else NO_SLOT,
            )
        return _Evaluation(
            timestep,
            start,
            target,
            read_slots=(group, _SECOND, _THIRD, CURRENT_OUTPUT),
            weights=_RUNGE_KUTTA,
            base_slot=_SAVED,
        )

    def _table(self, evaluations: Sequence[_Evaluation]) -> StepTable:
        """Return the coefficients of equation 11 for some evaluations."""

        def noise_level(timesteps: list[float]) -> Tensor:
            shift = 0 if self.config.variant == "modern" else 1
            return self._alpha_cumprod([math.floor(t) + shift for t in timesteps])

        alpha_prod_t = noise_level([e.start for e in evaluations])
        alpha_prod_t_prev = noise_level([e.target for e in evaluations])
        beta_prod_t, beta_prod_t_prev = 1 - alpha_prod_t, 1 - alpha_prod_t_prev
        denominator = alpha_prod_t * beta_prod_t_prev**0.5
        denominator = denominator + (alpha_prod_t * beta_prod_t * alpha_prod_t_prev) ** 0.5
        # rounded so far; what follows combines such numbers and rounds once
        base = ((alpha_prod_t_prev / alpha_prod_t) ** 0.5).double()
        output = -(alpha_prod_t_prev - alpha_prod_t).double() / denominator.double()
        if self.config.prediction_type == "v_prediction":
            # epsilon = sqrt(alpha_prod_t) v + sqrt(beta_prod_t) y
            base = base + output * (beta_prod_t**0.5).double()
            output = output * (alpha_prod_t**0.5).double()
        columns = self._x0_columns(noise_level([e.timestep for e in evaluations]))
        columns |= {"base": base, "output": output}
        for name in ("read_slots", "weights", "write_slot", "save_slot", "base_slot"):
            columns[name] = [getattr(e, name) for e in evaluations]
        timesteps = [e.timestep for e in evaluations]
        num_slots = _SAVED + 1 if self.config.skip_prk_steps else _THIRD + 1
        return self._as_table(make_rows(columns), timesteps, num_slots)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
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
        counter, timestep = self.counter, float(timestep)
        table, row = self.table(), counter
        if counter >= len(table) or table.timesteps[counter] != timestep:
            table, row = self._table([self._evaluation(counter, timestep)]), 0
        if counter == 0:
            self._stored = [sample] * table.num_slots  # of which none is read before it is replaced
        if model_output.dtype != sample.dtype:
            model_output = model_output.to(sample.dtype)
        if model_output.stride() != sample.stride():
            # once, and not again in every step that reads it
            model_output = torch.empty_like(sample).copy_(model_output)
        entry = table.rows[row]
        # only as far as the row reads: every tensor takes time to hand over
        stored = self._stored[: max(0, entry.base_slot, *entry.read_slots) + 1]
        prev_sample = ops.step(sample, model_output, table.on(sample), row, stored=stored)
        self._store(entry, sample, model_output)
        self.counter += 1
        return SchedulerOutput(prev_sample) if return_dict else (prev_sample,)

    def _store(self, row: StepRow, sample: Tensor, model_output: Tensor) -> None:
        """Keep what a row wants to be kept."""
        if row.write_slot != NO_SLOT:
            self._stored[row.write_slot] = model_output
        if row.save_slot != NO_SLOT:
            self._stored[row.save_slot] = sample
