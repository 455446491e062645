"""A GLIDE network with everything computed that stays the same over a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from septet.nn import at_row

if TYPE_CHECKING:
    from torch import Tensor

    from septet.models.glide_unet import GlideUNet
    from septet.nn.glide import TextKeysValues


@dataclass(frozen=True, eq=False)
class PreparedGlideUNet:
    """A network together with everything about timesteps, text and images that stays the same.

    Attributes:
        model: The network.
        times: ``[num_steps, R, channels]``, the projected embeddings of timestep and text of all
            residual blocks side by side; R is the number of texts, or 1. If these would be more
            than :data:`septet.models.glide_unet.MAX_KEPT`, the embeddings themselves, which each
            call then projects.
        projected: Whether ``times`` is projected.
        text: Keys and values of the texts, one pair per attention block, ``[N, P, heads,
            head_dim]``; None for a network that reads no text.
        text_rows: ``[N]``, which of the R texts belongs to each row of the network's batch; None
            where that is its index, or there is but one.
        conditions: Images that go in beside the sample, ``[B, channels, H, W]``.
        guided: Whether the batch consists of a conditional and an unconditional half, both at the
            same samples.
    """

    model: GlideUNet
    times: Tensor
    projected: bool
    text: list[TextKeysValues] | None
    text_rows: Tensor | None
    conditions: tuple[Tensor, ...]
    guided: bool

    def __len__(self) -> int:
        """Return the number of timesteps prepared."""
        return self.times.shape[0]

    def __call__(self, sample: Tensor, row: int | Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Run the network at one of the prepared timesteps.

        Args:
            sample: ``[B, C, H, W]``.
            row: Index of the timestep. A tensor with one integer, on the network's device, is
                read there without a host synchronisation.

        Returns:
            ``[B, 2 * C, H, W]``, or with guidance the pair of the conditional and the
            unconditional output.

        Raises:
            ValueError: If the shape of ``sample`` does not suit the network or what was prepared.
        """
        times = at_row(self.times, row)
        if not self.projected:
            times = self.model.project(times)
        if self.text_rows is not None:
            times = times.index_select(0, self.text_rows)
        sample = self.model.join(sample, self.conditions)
        if self.guided:
            sample = torch.cat([sample, sample])
        output = self.model.denoise(sample, times, self.text)
        if not self.guided:
            return output
        conditional, unconditional = output.chunk(2)
        return conditional, unconditional
