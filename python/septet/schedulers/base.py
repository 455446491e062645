"""What the schedulers share: configuration, noise schedule, and one call of the fused step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from septet import ops
from septet.ops import StepRow
from septet.random import Generators, PhiloxSeeds, check_generator, randn_tensor
from septet.schedulers.betas import make_betas
from septet.schedulers.config import TABLE_DTYPES, check_config
from septet.schedulers.configured import ConfiguredScheduler
from septet.schedulers.output import OriginalLater, SchedulerOutput, may_wait
from septet.schedulers.table import StepTable
from septet.schedulers.thresholding import DynamicThreshold
from septet.schedulers.timesteps import check_num_inference_steps, spaced_timesteps


class Scheduler(ConfiguredScheduler):
    """A sampler: a configuration, and a function that fills a :class:`StepTable` from it.

    Subclasses keep the constructor arguments and the ``step`` signature of their diffusers
    namesakes, so that they also work inside diffusers' own pipelines.

    Attributes:
        config: All constructor arguments, and those of other schedulers that the configuration it
            was made from held.
        betas, alphas, alphas_cumprod: ``[T]`` float32. For reading: the steps are computed from
            tables of ``config.table_dtype``, so changing these changes nothing.
        timesteps: Descending, int64 (float32 where there are half steps); what
            :meth:`set_timesteps` chose.
        num_inference_steps: How many steps were asked for, None before.
    """

    order: ClassVar[int] = 1
    init_noise_sigma: ClassVar[float] = 1.0
    _classes: ClassVar[list[type[Scheduler]]] = []
    #: Whether this sampler limits its estimate of the clean sample.
    _limits_x0: ClassVar[bool] = True

    timesteps: Tensor
    num_inference_steps: int | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let the configurations of a new scheduler class be understood by the others."""
        super().__init_subclass__(**kwargs)
        Scheduler._classes.append(cls)

    @classmethod
    def _family(cls) -> Sequence[type[ConfiguredScheduler]]:
        return cls._classes

    def _set_up(self) -> None:
        """Check ``self.config`` and make the tables that follow from it."""
        config = self.config
        check_config(config)
        betas = make_betas(
            config.beta_schedule,
            config.num_train_timesteps,
            config.beta_start,
            config.beta_end,
            config.trained_betas,
            config.get("rescale_betas_zero_snr", False),
            TABLE_DTYPES[config.get("table_dtype", "float64")],
        )
        alphas = 1 - betas
        self._cumprod = torch.cumprod(alphas, dim=0)
        final_is_one = config.get("set_alpha_to_one", True)
        self._final_cumprod = torch.ones_like(betas[0]) if final_is_one else self._cumprod[0]
        tables = (betas, alphas, self._cumprod, self._final_cumprod)
        copies = [table.to(torch.float32, copy=True) for table in tables]
        self.betas, self.alphas, self.alphas_cumprod, self.final_alpha_cumprod = copies
        self._tables: dict[object, StepTable] = {}
        self._use_timesteps(range(config.num_train_timesteps - 1, -1, -1), None, None)

    # -- timesteps and tables -------------------------------------------------------------------

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Choose the timesteps of the next run.

        Args:
            num_inference_steps: How many, 1 to ``num_train_timesteps``.
            device: Device of :attr:`timesteps`, the CPU if not given.

        Raises:
            ValueError: If the number is out of range.
        """
        steps = check_num_inference_steps(num_inference_steps, self.config.num_train_timesteps)
        self._use_timesteps(self._choose_timesteps(steps), steps, device)

    def _choose_timesteps(self, num_inference_steps: int) -> Sequence[float]:
        return self._spaced(num_inference_steps)[::-1]

    def _spaced(self, num_inference_steps: int) -> list[int]:
        """Return the evenly spaced timesteps, ascending."""
        config = self.config
        spaced: list[int] = spaced_timesteps(
            config.timestep_spacing,
            config.num_train_timesteps,
            num_inference_steps,
            config.steps_offset,
        ).tolist()
        return spaced

    def _use_timesteps(
        self,
        timesteps: Sequence[float],
        num_inference_steps: int | None,
        device: str | torch.device | None,
    ) -> None:
        chosen = (tuple(timesteps), num_inference_steps)
        if chosen != (getattr(self, "_timesteps", None), getattr(self, "num_inference_steps", 0)):
            self._tables.clear()
        self._timesteps, self.num_inference_steps = chosen
        self.timesteps = torch.tensor(self._timesteps, device=device)

    def _alpha_cumprod(self, timesteps: Sequence[int]) -> Tensor:
        """Return alphas_cumprod at some timesteps; before the first one, its final value.

        Raises:
            ValueError: If a timestep is beyond the training process.
        """
        if max(timesteps) >= len(self._cumprod):
            raise ValueError(
                f"timestep {max(timesteps)} is beyond the {len(self._cumprod)} training steps; "
                "check steps_offset, trained_betas or the timestep given"
            )
        index = torch.tensor(timesteps, device="cpu")
        return torch.where(index < 0, self._final_cumprod, self._cumprod[index.clamp(min=0)])

    def _x0_columns(self, alpha_prod_t: Tensor) -> dict[str, Any]:
        """Return the columns that turn a model output into an estimate of the clean sample."""
        root, noise_root = alpha_prod_t**0.5, (1 - alpha_prod_t) ** 0.5
        columns: dict[str, Any]
        kind = self.config.get("prediction_type", "epsilon")
        if kind == "epsilon":
            # a quotient, so that alphas_cumprod = 0 gives infinity, which clipping makes finite
            columns = {"x0_sample": 1.0, "x0_output": -noise_root, "x0_divisor": root}
        elif kind == "sample":
            columns = {"x0_sample": 0.0, "x0_output": 1.0}
        else:
            columns = {"x0_sample": root, "x0_output": -noise_root}
        thresholding = self.config.get("thresholding", False)
        if self._limits_x0 and self.config.clip_sample and not thresholding:
            columns["x0_clip"] = self.config.clip_sample_range
        return columns

    def _as_table(
        self, rows: Sequence[StepRow], timesteps: Sequence[float], num_slots: int = 0
    ) -> StepTable:
        config = self.config
        threshold = None
        if self._limits_x0 and config.get("thresholding", False):
            threshold = DynamicThreshold(config.dynamic_thresholding_ratio, config.sample_max_value)
        return StepTable(
            rows,
            timesteps,
            num_slots=num_slots,
            dynamic_threshold=threshold,
            # diffusers' last digits need its operations, too
            fold=config.table_dtype == "float64",
        )

    # -- steps ----------------------------------------------------------------------------------

    def _apply(
        self,
        table: StepTable,
        row: int,
        model_output: Tensor,
        sample: Tensor,
        generator: Generators,
        noise: Tensor | None,
        return_dict: bool,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """Run one row, drawing noise if it needs some; return the next sample and x0."""
        adds_noise = table.adds_noise(row)
        philox = None
        if noise is None and adds_noise and isinstance(generator, PhiloxSeeds):
            # drawn inside the step, with the same bits
            check_generator(generator, sample.shape[0], sample.device)
            philox = generator.advance(sample[0].numel()).to(sample.device)
        elif noise is None and adds_noise:
            noise = randn_tensor(sample.shape, generator, model_output.device, model_output.dtype)
        if model_output.dtype != sample.dtype:
            model_output = model_output.to(sample.dtype)
        if noise is not None and noise.dtype != sample.dtype:
            noise = noise.to(sample.dtype)
        values = table.on(sample)
        threshold = table.threshold(row, sample, model_output)
        both = not return_dict or not may_wait(sample, model_output)
        result = ops.step(
            sample,
            model_output,
            values,
            row,
            pred_original_sample=both,
            noise=noise,
            philox=philox,
            threshold=threshold,
        )
        if isinstance(result, tuple):
            return SchedulerOutput(*result) if return_dict else result
        later = OriginalLater(sample, model_output, values, row, adds_noise, threshold)
        return SchedulerOutput(result, later)

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """Return the sample itself: these schedulers do not scale the network's input."""
        del timestep
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Diffuse clean samples: ``sqrt(ac) x0 + sqrt(1 - ac) noise`` (Ho et al. 2020, eq. 4).

        Args:
            original_samples: ``[B, C, ...]``.
            noise: ``[B, C, ...]`` standard normal.
            timesteps: ``[B]`` or scalar integers.
        """
        signal, spread = self._levels(timesteps, original_samples)
        return signal * original_samples + spread * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what a v-prediction network learns: ``sqrt(ac) noise - sqrt(1 - ac) x0``.

        Source: Salimans and Ho (2022), section 4. Arguments as in :meth:`add_noise`, ``sample``
        being the clean sample.
        """
        signal, spread = self._levels(timesteps, sample)
        return signal * noise - spread * sample

    def _levels(self, timesteps: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self._cumprod[timesteps.cpu()].reshape(-1, *[1] * (sample.dim() - 1))
        return chosen.sqrt().to(sample), (1 - chosen).sqrt().to(sample)

    def __len__(self) -> int:
        """Return the number of training steps."""
        steps: int = self.config.num_train_timesteps
        return steps
