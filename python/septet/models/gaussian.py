"""The normal distribution with which an autoencoder describes the latents of an image."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from septet.random import randn_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from septet.random import Generators

# Beyond these the exponential is of no use (Rombach et al. 2022, code).
_LOGVAR_RANGE = (-30.0, 20.0)


class DiagonalGaussianDistribution:
    """Independent normals, one per entry of the latents.

    Args:
        parameters: ``[B, 2 * C, ...]``: C means, then C logarithms of variances.
        deterministic: Whether to treat all variances as zero.

    Attributes:
        parameters: As given.
        mean: ``[B, C, ...]``.
        logvar: ``[B, C, ...]``, clamped to -30..20.
        deterministic: As given.
    """

    def __init__(self, parameters: Tensor, deterministic: bool = False) -> None:
        if parameters.ndim < 2 or parameters.shape[1] % 2:
            raise ValueError(
                f"parameters must have shape [B, 2 * C, ...], got {list(parameters.shape)}"
            )
        self.parameters = parameters
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(*_LOGVAR_RANGE)
        self.deterministic = deterministic

    @cached_property
    def std(self) -> Tensor:
        """The standard deviations."""
        if self.deterministic:
            return torch.zeros_like(self.mean)
        return torch.exp(0.5 * self.logvar)

    @cached_property
    def var(self) -> Tensor:
        """The variances."""
        return torch.zeros_like(self.mean) if self.deterministic else torch.exp(self.logvar)

    def sample(self, generator: Generators = None) -> Tensor:
        """Draw latents.

        Args:
            generator: See :func:`septet.randn_tensor`.

        Returns:
            ``[B, C, ...]``, differentiable with respect to the parameters.
        """
        noise = randn_tensor(
            self.mean.shape, generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return self.mean + self.std * noise

    def mode(self) -> Tensor:
        """Return the most likely latents."""
        return self.mean

    def kl(self, other: DiagonalGaussianDistribution | None = None) -> Tensor:
        """Compute the Kullback-Leibler divergence from another distribution.

        Args:
            other: The other one; None for the standard normal.

        Returns:
            ``[B]``, in nats; ``[1]`` of zero for a deterministic distribution.
        """
        if self.deterministic:
            return torch.zeros(1)
        if other is None:
            terms = self.mean**2 + self.var - 1 - self.logvar
        else:
            terms = (
                (self.mean - other.mean) ** 2 / other.var
                + self.var / other.var
                - 1
                - self.logvar
                + other.logvar
            )
        return 0.5 * terms.flatten(1).sum(dim=1)

    def nll(self, sample: Tensor, dims: Sequence[int] = (1, 2, 3)) -> Tensor:
        """Compute the negative log-likelihood of latents.

        Args:
            sample: ``[B, C, ...]``.
            dims: The axes to sum over.

        Returns:
            What the sum leaves, in nats; ``[1]`` of zero for a deterministic distribution.
        """
        if self.deterministic:
            return torch.zeros(1)
        terms = math.log(2 * math.pi) + self.logvar + (sample - self.mean) ** 2 / self.var
        return 0.5 * terms.sum(dim=list(dims))
