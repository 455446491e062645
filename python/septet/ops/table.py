"""The row format that every sampler is written in, and that ``septet::step`` reads.

One row holds the coefficients of one sampler step::

    m  = u + guidance_scale * (c - u)                     where an unconditional output is given
    m' = sum_k weights[k] * read_slots[k]                 this output and stored earlier ones
    x0 = clip((x0_sample * x + x0_output * m') / x0_divisor, +-x0_clip)
    x' = (pred_original * x0 + base * y + output * m' + prior_mean * mu + noise * z) * mask

``y`` is ``x`` or the sample kept in ``base_slot``. The order of the columns is part of the
compiled library's interface: ``csrc/functors/step.h`` lists the same names, and a test compares
the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from enum import IntEnum

#: ``read_slots`` entry that stands for the output passed to this very step.
CURRENT_OUTPUT = -1
#: ``read_slots`` entry that reads nothing.
UNUSED = -2
#: ``write_slot``, ``save_slot`` or ``base_slot`` entry that means "none".
NO_SLOT = -1


class NoiseKind(IntEnum):
    """How the noise of a row is scaled."""

    NONE = 0
    #: by the constant ``noise``
    CONSTANT = 1
    #: by ``noise * sqrt(v)``, v being the second half of the model's channels
    LEARNED = 2
    #: by ``noise * exp((lo + (v + 1) / 2 * (hi - lo)) / 2)``, lo and hi the log variance bounds
    LEARNED_RANGE = 3


@dataclass(frozen=True)
class StepRow:
    """The coefficients of one sampler step; the defaults return the model output unchanged.

    Attributes:
        guidance_scale: Weight of the conditional output against the unconditional one.
        x0_sample, x0_output, x0_divisor: The estimate of the clean sample is
            ``(x0_sample * x + x0_output * m') / x0_divisor``.
        x0_clip: That estimate is clamped to ``[-x0_clip, x0_clip]``; infinity leaves it alone.
        pred_original, base, output, prior_mean: Weights of x0, y, m' and mu in the update.
        noise_kind: Where the scale of the noise comes from.
        noise: Factor of the noise.
        log_variance_low, log_variance_high: Bounds of a learned-range log variance.
        write_slot: Slot that keeps this step's model output (after guidance), or ``NO_SLOT``.
        save_slot: Slot that keeps this step's input sample, or ``NO_SLOT``.
        base_slot: Slot that holds y; ``NO_SLOT`` means that y is the input sample.
        read_slots: The terms of m': slots, ``CURRENT_OUTPUT`` or ``UNUSED``.
        weights: Their weights.
    """

    guidance_scale: float = 1.0
    x0_sample: float = 0.0
    x0_output: float = 1.0
    x0_divisor: float = 1.0
    x0_clip: float = math.inf
    pred_original: float = 0.0
    base: float = 0.0
    output: float = 1.0
    prior_mean: float = 0.0
    noise_kind: NoiseKind = NoiseKind.NONE
    noise: float = 0.0
    log_variance_low: float = 0.0
    log_variance_high: float = 0.0
    write_slot: int = NO_SLOT
    save_slot: int = NO_SLOT
    base_slot: int = NO_SLOT
    read_slots: tuple[int, int, int, int] = (CURRENT_OUTPUT, UNUSED, UNUSED, UNUSED)
    weights: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)

    def as_list(self) -> list[float]:
        """Return the row as one flat list, in the order of :data:`COLUMNS`."""
        flat: list[float] = []
        for field in fields(self):
            value = getattr(self, field.name)
            flat.extend(value if isinstance(value, tuple) else (value,))
        return [float(value) for value in flat]

    def folded(self, keep_x0: bool = False) -> StepRow:
        """Return a row that computes the same with fewer operations.

        The division goes into the coefficients, and an estimate that is not clipped dissolves into
        the update. A divisor of zero stays: there x0 is infinite, and clipping makes sense of it.

        Args:
            keep_x0: The estimate is bounded by more than ``x0_clip`` and has to stay.
        """
        if self.x0_divisor == 0:
            return self
        of_sample, of_output = self.x0_sample / self.x0_divisor, self.x0_output / self.x0_divisor
        row = replace(self, x0_sample=of_sample, x0_output=of_output, x0_divisor=1.0)
        if keep_x0 or math.isfinite(self.x0_clip) or self.base_slot != NO_SLOT:
            return row
        return replace(
            row,
            pred_original=0.0,
            base=self.base + self.pred_original * of_sample,
            output=self.output + self.pred_original * of_output,
        )

    @classmethod
    def from_list(cls, values: list[float]) -> StepRow:
        """Rebuild a row from the list that :meth:`as_list` made."""
        scalars = [field.name for field in fields(cls)][:-2]
        arguments: dict[str, object] = dict(zip(scalars, values[: len(scalars)], strict=True))
        arguments["noise_kind"] = NoiseKind(int(values[scalars.index("noise_kind")]))
        for name in ("write_slot", "save_slot", "base_slot"):
            arguments[name] = int(values[scalars.index(name)])
        arguments["read_slots"] = tuple(int(v) for v in values[len(scalars) : len(scalars) + 4])
        arguments["weights"] = tuple(values[len(scalars) + 4 :])
        return cls(**arguments)  # type: ignore[arg-type]


#: The name of every column of a table, in order.
COLUMNS: tuple[str, ...] = tuple(
    name
    for field in fields(StepRow)
    for name in (
        [f"{field.name}_{k}" for k in range(4)]
        if field.name in ("read_slots", "weights")
        else [field.name]
    )
)
