"""Dynamic thresholding: how far to let the estimate of the clean sample reach, per sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from septet.ops.table import StepRow


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
        row: StepRow,
        sample: Tensor,
        model_output: Tensor,
        uncond_output: Tensor | None = None,
    ) -> Tensor:
        """Return the bounds of one step.

        Args:
            row: Its coefficients; the combination of stored outputs is not supported.
            sample: ``[B, C, ...]``.
            model_output: ``[B, C, ...]`` or ``[B, 2C, ...]``.
            uncond_output: The unconditional output, of the same shape.

        Returns:
            ``[B]``, float32, or float64 for a float64 sample.
        """
        dtype = torch.float64 if sample.dtype == torch.float64 else torch.float32
        channels = sample.shape[1]
        output = model_output[:, :channels].to(dtype)
        if uncond_output is not None:
            output = torch.lerp(uncond_output[:, :channels].to(dtype), output, row.guidance_scale)
        x0 = (row.x0_sample * sample.to(dtype) + row.x0_output * output) / row.x0_divisor
        bound = torch.quantile(x0.flatten(1).abs(), self.ratio, dim=1)
        # maximum comes last, as in torch.clamp, where a maximum below 1 wins
        return bound.clamp(1.0, self.maximum)
