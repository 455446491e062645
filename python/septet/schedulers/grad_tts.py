"""The reverse diffusion of Grad-TTS towards a prior mean (Popov et al. 2021).

The forward process is ``dX = (mu - X) beta_t / 2 dt + sqrt(beta_t) dW`` with
``beta_t = beta_start + (beta_end - beta_start) t``, t from 0 to 1 (eq. 4 and section 3.3). The
network estimates the score s of X_t; the solvers are Euler's with N steps of length h = 1 / N, at
the middle of each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from septet import ops
from septet.config import check_bool, check_int, check_number
from septet.ops import NoiseKind
from septet.random import Generators, randn_tensor
from septet.schedulers.config import record_config
from septet.schedulers.configured import ConfiguredScheduler
from septet.schedulers.output import SchedulerOutput
from septet.schedulers.table import StepTable, make_rows

#: Keys in files of 2022 that mean nothing here.
_IGNORED_KEYS = ("num_train_timesteps", "timesteps", "tensor_format", "timestep_values")
_MOST_STEPS = 1_000_000


class GradTTSScheduler(ConfiguredScheduler):
    """Follows the score from noise around a prior mean to a spectrogram.

    Args:
        beta_start: Rate of the noise at time 0.
        beta_end: Rate of the noise at time 1, not below ``beta_start``.

    Attributes:
        timesteps: ``[N]`` float32, descending times in (0, 1); of 50 steps at first.
        num_inference_steps: N.

    Raises:
        ValueError: If an argument makes no sense.
    """

    order: ClassVar[int] = 1
    init_noise_sigma: ClassVar[float] = 1.0

    timesteps: Tensor
    num_inference_steps: int

    @record_config
    def __init__(self, beta_start: float = 0.05, beta_end: float = 20.0) -> None:
        check_number("beta_start", beta_start, 0)
        check_number("beta_end", beta_end, beta_start)
        self._tables: dict[bool, StepTable] = {}
        self.set_timesteps(50)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | ConfiguredScheduler, **overrides: Any
    ) -> GradTTSScheduler:
        """Make a scheduler from a configuration.

        Args:
            config: A configuration, a scheduler that has one, or the content of a
                ``scheduler_config.json``; keys that only other schedulers of 2022 had a use for
                are ignored.
            **overrides: Constructor arguments that take precedence.

        Raises:
            ValueError: If a key is unknown, or a value makes no sense.
        """
        entries = config.config if isinstance(config, ConfiguredScheduler) else config
        kept = {key: value for key, value in entries.items() if key not in _IGNORED_KEYS}
        return super().from_config(kept, **overrides)

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Choose the times of the next run.

        Args:
            num_inference_steps: How many, at least 1.
            device: Device of :attr:`timesteps`, the CPU if not given.

        Raises:
            ValueError: If the number is out of range.
        """
        check_int("num_inference_steps", num_inference_steps, 1, _MOST_STEPS)
        if num_inference_steps != getattr(self, "num_inference_steps", 0):
            self._tables.clear()
        self.num_inference_steps = num_inference_steps
        length = 1.0 / num_inference_steps
        self._times = [1.0 - (step + 0.5) * length for step in range(num_inference_steps)]
        self.timesteps = torch.tensor(self._times, dtype=torch.float32, device=device)

    def table(self, stochastic: bool = False) -> StepTable:
        """Return the coefficients of all steps.

        Args:
            stochastic: False solves the ordinary differential equation (eq. 9),
                ``x - (mu - x - s) beta h / 2``; True the stochastic one (eq. 8),
                ``x - ((mu - x) / 2 - s) beta h - sqrt(beta h) z``.

        Raises:
            ValueError: If ``stochastic`` is no bool.
        """
        check_bool("stochastic", stochastic)
        table = self._tables.get(stochastic)
        if table is None:
            times = torch.tensor(self._times, dtype=torch.float64)
            start, end = self.config.beta_start, self.config.beta_end
            change = (start + (end - start) * times) / self.num_inference_steps  # beta h
            columns = {
                "base": 1 + change / 2,
                "prior_mean": -change / 2,
                "output": change if stochastic else change / 2,
                "noise_kind": NoiseKind.CONSTANT if stochastic else NoiseKind.NONE,
                "noise": -change.sqrt() if stochastic else 0.0,
            }
            table = self._tables[stochastic] = StepTable(make_rows(columns), self._times)
        return table

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        mu: Tensor,
        mask: Tensor | None = None,
        stochastic: bool = False,
        generator: Generators = None,
        noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Go from one time to the next.

        Args:
            model_output: ``[B, C, T]``, the score.
            timestep: One of :attr:`timesteps`.
            sample: ``[B, C, T]``.
            mu: ``[B, C, T]``, the prior mean.
            mask: ``[B, 1, T]``, multiplies the result.
            stochastic: See :meth:`table`.
            generator: Where noise comes from, if some is added.
            noise: ``[B, C, T]`` noise to use instead.
            return_dict: Whether to return an object instead of a tuple.

        Raises:
            ValueError: If the time is not one of the run's, or an argument does not fit.
        """
        table = self.table(stochastic)
        distances = (self.timesteps - float(timestep)).abs()
        row = int(distances.argmin())
        # times are told apart in float32, in which a network gets them
        if distances[row] > 1e-6:
            raise ValueError(f"timestep must be one of the run's times, got {float(timestep)}")
        if stochastic and noise is None:
            noise = randn_tensor(sample.shape, generator, sample.device, sample.dtype)
        prev_sample = ops.step(
            sample,
            model_output.to(sample.dtype),
            table.on(sample),
            row,
            mu=mu,
            mask=mask,
            noise=noise if stochastic else None,
        )
        return SchedulerOutput(prev_sample) if return_dict else (prev_sample,)

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.num_inference_steps
