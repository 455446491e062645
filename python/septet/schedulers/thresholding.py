"""Dynamic thresholding: how far to let the estimate of the clean sample reach, per sample."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from septet import ops


@dataclass(frozen=True)
class DynamicThreshold:
    """The bound s of Saharia et al. (2022), section 2.3: x0 is clamped to +-s and divided by s.

    Attributes:
        ratio: Quantile of ``|x0|`` that a sample's bound is taken from, in (0, 1].
        maximum: Largest bound; the smallest is 1.
    """

    ratio: float
    maximum: float

    def __call__(
        self,
        table: Tensor,
        row: int,
        sample: Tensor,
        model_output: Tensor,
        uncond_output: Tensor | None = None,
    ) -> Tensor:
        """Return the bounds of one step.

        Args:
            table: ``[rows, 24]``, as :func:`septet.ops.step` takes it.
            row: The step's row; the combination of stored outputs is not supported.
            sample: ``[B, C, ...]``.
            model_output: ``[B, C, ...]`` or ``[B, 2C, ...]``.
            uncond_output: The unconditional output, of the same shape.

        Returns:
            ``[B]``, in the table's dtype.
        """
        return ops.threshold_quantile(
            sample,
            model_output,
            table,
            row,
            ratio=self.ratio,
            maximum=self.maximum,
            uncond_output=uncond_output,
        )
