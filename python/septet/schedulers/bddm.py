"""Vocoding in few steps along a short noise schedule (Lam et al. 2022, BDDM).

Names here and in the paper: ``betas`` of a short schedule are its beta-hat, ``alphas`` the
**square roots** of ``alphas_cumprod``, alpha-hat; timesteps are fractions of training steps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, Union

import numpy as np
import torch
from torch import Tensor

from septet.config import check_choice
from septet.ops import NoiseKind, StepRow
from septet.random import Generators
from septet.schedulers.base import Scheduler
from septet.schedulers.betas import make_betas
from septet.schedulers.config import DEFAULTED, record_config
from septet.schedulers.configured import ConfiguredScheduler
from septet.schedulers.noise_schedule import (
    PUBLISHED_SCHEDULES,
    NoiseSchedule,
    as_floats,
    signal_factors,
)
from septet.schedulers.output import SchedulerOutput
from septet.schedulers.table import StepTable, make_rows
from septet.schedulers.timesteps import check_num_inference_steps

BDDMT = TypeVar("BDDMT", bound="BDDMScheduler")

METHODS = ("ddpm", "ddim")

#: A published schedule's name, a ``.ns`` file, betas, or a schedule.
ScheduleLike = Union[str, "os.PathLike[str]", Sequence[float], np.ndarray, Tensor, NoiseSchedule]


class BDDMScheduler(Scheduler):
    """Samples along a short noise schedule whose levels may lie between training steps.

    Without a schedule it takes all training steps, or with method "ddim" evenly spaced ones.

    Args:
        num_train_timesteps: Number of training steps T.
        beta_start, beta_end: Ends of the training process, in (0, 1).
        beta_schedule: "linear", "scaled_linear", "squaredcos_cap_v2", "laplace" or "sigmoid".
        trained_betas: ``[T]`` betas of the training process to use instead.
        schedule: The short schedule: a name of :data:`PUBLISHED_SCHEDULES`, or betas; None for
            all training steps. :meth:`set_timesteps` can choose another one.
        timestep_values: Timesteps to go with betas in ``schedule``; None derives them.
        clip_sample: Whether to clamp the estimate of the clean waveform.
        clip_sample_range: The clamp is to plus/minus this.
        table_dtype: What the coefficients are computed in, "float64" or "float32".

    Raises:
        ValueError: If an argument makes no sense.
    """

    @record_config
    def __init__(
        self,
        num_train_timesteps: int = 200,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | None = None,
        schedule: str | Sequence[float] | None = "lj-12",
        timestep_values: Sequence[float] | None = None,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        *,
        table_dtype: str = "float64",
    ) -> None:
        self._set_up()
        config = self.config
        train_betas = make_betas(
            config.beta_schedule,
            config.num_train_timesteps,
            config.beta_start,
            config.beta_end,
            config.trained_betas,
            dtype=torch.float32,
        )
        #: ``[T]`` float32, the signal's factor at every training step
        self.train_alphas = signal_factors(train_betas)
        self._own_schedule = self._configured_schedule()
        self.set_timesteps()

    @classmethod
    def from_config(
        cls: type[BDDMT], config: Mapping[str, Any] | ConfiguredScheduler, **overrides: Any
    ) -> BDDMT:
        """Make a scheduler from the configuration of any of them.

        The vocoders of 2022 came with the configuration of a DDPM scheduler whose training process
        is the short schedule. With ``timestep_values`` that becomes the schedule here, of a
        training process of 200 steps; without, all its steps are taken.

        Args:
            config: See :meth:`Scheduler.from_config`.
            **overrides: The same.

        Raises:
            ValueError: The same.
        """
        given = config.config if isinstance(config, ConfiguredScheduler) else config
        entries = {key: value for key, value in given.items() if key != "schedule"}
        if "schedule" in given:
            if "schedule" not in given.get(DEFAULTED, ()):
                entries["schedule"] = given["schedule"]
        elif given.get("timestep_values") is None:
            entries["schedule"] = None
        else:
            entries["schedule"] = given.get("trained_betas")
            for key in ("trained_betas", "num_train_timesteps", "timesteps"):
                entries.pop(key, None)
        return super().from_config(entries, **overrides)

    # -- timesteps and tables -------------------------------------------------------------------

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        *,
        schedule: ScheduleLike | None = None,
        method: str = "ddpm",
    ) -> None:
        """Choose the noise schedule of the next run.

        Args:
            num_inference_steps: Number of steps: that of the configured schedule, T for all
                training steps, that of a published schedule; with method "ddim" any from 2 to T.
                None takes the configured schedule.
            device: Device of :attr:`timesteps`, the CPU if not given.
            schedule: What to use instead: a name of :data:`PUBLISHED_SCHEDULES`, the path of a
                ``.ns`` file, increasing betas, or a :class:`NoiseSchedule`.
            method: "ddpm" adds noise in every step but the last, "ddim" adds none.

        Raises:
            ValueError: If there is no schedule of this length, both arguments are given and
                disagree, or a value makes no sense.
            CheckpointError: If a file is missing, damaged or holds no schedule.
        """
        check_choice("method", method, METHODS)
        total = self.config.num_train_timesteps
        if num_inference_steps is not None:
            num_inference_steps = check_num_inference_steps(num_inference_steps, total)
        if schedule is not None:
            chosen = self.resolve_schedule(schedule)
            if num_inference_steps not in (None, len(chosen)):
                raise ValueError(
                    f"num_inference_steps must be that of the schedule, {len(chosen)}, or left "
                    f"out, got {num_inference_steps}"
                )
            process = _short_process(chosen)
        else:
            process = self._process_of_length(num_inference_steps, method)
        self._method, self._process = method, process
        self._tables.clear()
        self._use_timesteps(process.timesteps[::-1], len(process.timesteps), device)

    def resolve_schedule(self, schedule: ScheduleLike) -> NoiseSchedule:
        """Return the schedule that a name, a file or betas stand for.

        Raises:
            ValueError: If it makes no sense.
            CheckpointError: If a file is missing, damaged or holds no schedule.
        """
        if isinstance(schedule, NoiseSchedule):
            return schedule
        if isinstance(schedule, str) and schedule in PUBLISHED_SCHEDULES:
            return NoiseSchedule.published(schedule)
        if isinstance(schedule, str | os.PathLike):
            path = Path(schedule)
            if path.suffix != ".ns":
                return NoiseSchedule.published(str(schedule))  # tells what there is
            return NoiseSchedule.from_file(path)
        return NoiseSchedule.from_betas(as_floats("schedule", schedule), self.train_alphas)

    def _configured_schedule(self) -> NoiseSchedule | None:
        betas, timesteps = self.config.schedule, self.config.timestep_values
        if timesteps is None:
            return None if betas is None else self.resolve_schedule(betas)
        if betas is None or isinstance(betas, str):
            raise ValueError("timestep_values go with betas in schedule, not without or by name")
        return NoiseSchedule(as_floats("schedule", betas), as_floats("timestep_values", timesteps))

    def _process_of_length(self, steps: int | None, method: str) -> _Process:
        own, total = self._own_schedule, self.config.num_train_timesteps
        if own is not None and steps in (None, len(own)):
            return _short_process(own)
        if steps in (None, total):
            return self._part_of_training(range(total))
        assert steps is not None
        if method == "ddim":
            if steps < 2:
                raise ValueError(f"num_inference_steps must be 2 to {total} with ddim, got 1")
            # truncated, as the authors'
            return self._part_of_training(torch.linspace(0, total - 1, steps).long().tolist())
        named = {len(NoiseSchedule.published(name)): name for name in PUBLISHED_SCHEDULES}
        if steps in named and self._trained_as_published():
            return _short_process(NoiseSchedule.published(named[steps]))
        known = sorted({*named, total, *([] if own is None else [len(own)])})
        raise ValueError(
            f"num_inference_steps must be one of {known}, for which there is a noise schedule, "
            f"got {steps}; other numbers need schedule= or method='ddim'"
        )

    def _trained_as_published(self) -> bool:
        published = torch.linspace(1e-4, 0.02, 200)
        return self.betas.shape == published.shape and torch.allclose(self.betas, published)

    def _part_of_training(self, timesteps: Sequence[int]) -> _Process:
        index = torch.tensor(list(timesteps))
        return _Process(tuple(float(t) for t in timesteps), self._cumprod[index].double())

    def table(self) -> StepTable:
        """Return the coefficients of all steps (BDDM, algorithms 2 and 4; DDIM, eq. 12)."""
        table = self._tables.get("all")
        if table is None:
            rows = self._rows(self._process.alphas_cumprod.flip(0))
            table = self._tables["all"] = self._as_table(rows, self._process.timesteps[::-1])
        return table

    def _rows(self, alpha_prod_t: Tensor) -> list[StepRow]:
        """Return the rows for noise levels from the noisiest on; the last leads to no noise."""
        alpha_prod_t_prev = torch.cat([alpha_prod_t[1:], torch.ones_like(alpha_prod_t[:1])])
        columns = self._x0_columns(alpha_prod_t)
        if self._method == "ddim":
            columns |= {
                "pred_original": alpha_prod_t_prev.sqrt(),
                "base": 0.0,
                "output": (1 - alpha_prod_t_prev).sqrt(),
            }
            return make_rows(columns)
        alpha = alpha_prod_t / alpha_prod_t_prev
        beta, remaining = 1 - alpha, (1 - alpha_prod_t_prev) / (1 - alpha_prod_t)
        rows = make_rows(
            columns
            | {
                "pred_original": alpha_prod_t_prev.sqrt() * beta / (1 - alpha_prod_t),
                "base": alpha.sqrt() * remaining,
                "output": 0.0,
                "noise_kind": NoiseKind.CONSTANT,
                "noise": (beta * remaining).sqrt(),
            }
        )
        rows[-1] = replace(rows[-1], noise_kind=NoiseKind.NONE, noise=0.0)
        return rows

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
        *,
        variance_noise: Tensor | None = None,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """Go from one timestep to the next.

        Args:
            model_output: ``[B, C, samples]``.
            timestep: One of :attr:`timesteps`.
            sample: ``[B, C, samples]``, the waveform at that timestep.
            generator: Where the noise comes from; none is drawn in the last step, or with "ddim".
            return_dict: Whether to return an object instead of a tuple.
            variance_noise: ``[B, C, samples]`` noise to use instead.

        Returns:
            The next waveform and the estimate of the clean one.

        Raises:
            ValueError: If the timestep is not among :attr:`timesteps`, or a tensor does not fit.
        """
        table = self.table()
        row = table.row_of(float(timestep))
        if row is None:
            raise ValueError(f"timestep {float(timestep)} is not one of those that were set")
        return self._apply(table, row, model_output, sample, generator, variance_noise, return_dict)


@dataclass(frozen=True)
class _Process:
    """A short diffusion process, the least noisy step first.

    Attributes:
        timesteps: What the network is told.
        alphas_cumprod: ``[N]`` float64.
    """

    timesteps: tuple[float, ...]
    alphas_cumprod: Tensor


def _short_process(schedule: NoiseSchedule) -> _Process:
    betas = torch.tensor(schedule.betas, dtype=torch.float64)
    # float32, in which timesteps reach the network and come back to step()
    timesteps = tuple(float(np.float32(value)) for value in schedule.timesteps)
    return _Process(timesteps, (1 - betas).cumprod(0))
