"""A whole sampler as data: one row of coefficients per step, and the timesteps they belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from septet.ops.table import NoiseKind, StepRow
from septet.schedulers.thresholding import DynamicThreshold


def make_rows(columns: dict[str, Any]) -> list[StepRow]:
    """Turn columns into rows.

    Args:
        columns: Fields of :class:`StepRow`: ``[rows]`` tensors and lists, at least one, or
            values that are the same in all rows.
    """
    lists: dict[str, Any] = {
        k: v.double().tolist() if isinstance(v, Tensor) else v for k, v in columns.items()
    }
    varying = [k for k, v in lists.items() if isinstance(v, list)]
    constants = {k: v for k, v in lists.items() if k not in varying}
    rows = zip(*(lists[k] for k in varying), strict=True)
    return [StepRow(**constants, **dict(zip(varying, row, strict=True))) for row in rows]


class StepTable:
    """The rows of one sampling run, immutable; ``septet.ops.step`` reads one row per step.

    Args:
        rows: The steps in the order in which they run.
        timesteps: What the network is told in each step, one per row.
        num_slots: How many stored outputs and samples the rows refer to.
        dynamic_threshold: How far to clamp the estimate of the clean sample in every step; None
            leaves that to the rows' ``x0_clip``.
        fold: Whether rows may be rewritten with fewer operations (:meth:`StepRow.folded`).

    Attributes:
        values: ``[rows, 24]`` float64 on the CPU, the columns of :data:`septet.ops.COLUMNS`.

    Raises:
        ValueError: If there are no rows, or not as many timesteps.
    """

    def __init__(
        self,
        rows: Sequence[StepRow],
        timesteps: Sequence[int | float],
        *,
        num_slots: int = 0,
        dynamic_threshold: DynamicThreshold | None = None,
        fold: bool = True,
    ) -> None:
        if not rows or len(rows) != len(timesteps):
            raise ValueError(
                f"a table needs one timestep per row and at least one row, got {len(rows)} rows "
                f"and {len(timesteps)} timesteps"
            )
        if fold:
            rows = [row.folded(keep_x0=dynamic_threshold is not None) for row in rows]
        self.rows = tuple(rows)
        self.timesteps = tuple(timesteps)
        self.num_slots = num_slots
        self.dynamic_threshold = dynamic_threshold
        self.values = torch.tensor([row.as_list() for row in self.rows], dtype=torch.float64)
        self._draws = tuple(row.noise_kind != NoiseKind.NONE for row in self.rows)
        # of equal timesteps the first counts
        self._row_of = {t: i for i, t in reversed(tuple(enumerate(self.timesteps)))}
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.rows)

    def adds_noise(self, row: int) -> bool:
        """Tell whether noise must be drawn for a row (its factor may still be zero)."""
        return self._draws[row]

    def row_of(self, timestep: int | float) -> int | None:
        """Return the first row with a timestep, or None."""
        return self._row_of.get(timestep)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the coefficients on a device, made once per device and type.

        Args:
            device: Where the samples live.
            dtype: float32, or float64 for float64 samples.
        """
        copy = self._copies.get((device, dtype))
        if copy is None:
            copy = self._copies[device, dtype] = self.values.to(device, dtype)
        return copy

    def on(self, sample: Tensor) -> Tensor:
        """Return the coefficients that fit a sample: its device, float64 only if it is."""
        dtype = torch.float64 if sample.dtype == torch.float64 else torch.float32
        return self.to(sample.device, dtype)

    def new_slots(self, sample: Tensor) -> Tensor | None:
        """Allocate ``[num_slots, B, C, ...]`` for a sample, in the layout a step works in."""
        if not self.num_slots:
            return None
        model = sample
        if sample.dim() != 4 or not sample.is_contiguous(memory_format=torch.channels_last):
            model = sample.contiguous()
        return torch.empty_strided(
            (self.num_slots, *sample.shape),
            (sample.numel(), *model.stride()),
            dtype=sample.dtype,
            device=sample.device,
        )

    def threshold(
        self, row: int, sample: Tensor, model_output: Tensor, uncond_output: Tensor | None = None
    ) -> Tensor | None:
        """Return the ``[B]`` bounds of dynamic thresholding, None where it is off."""
        if self.dynamic_threshold is None:
            return None
        return self.dynamic_threshold(self.on(sample), row, sample, model_output, uncond_output)

    def with_guidance(self, scale: float) -> StepTable:
        """Return the same table with another classifier-free guidance scale in every row."""
        return StepTable(
            [dataclasses.replace(row, guidance_scale=scale) for row in self.rows],
            self.timesteps,
            num_slots=self.num_slots,
            dynamic_threshold=self.dynamic_threshold,
            fold=False,  # they are as they should be
        )
