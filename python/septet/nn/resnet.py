"""The residual block of the image networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import nn

from septet.nn.conv import Conv2d, parts_for
from septet.nn.linear import ConditionLinear
from septet.nn.norm import GroupNormAct

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ResnetOptions:
    """What all residual blocks of one network have in common.

    Attributes:
        temb_channels: Width of the time embedding; None for blocks that know no time, those of
            autoencoders.
        groups: Groups of the normalisations.
        eps: Epsilon of the normalisations.
        act_fn: Name of the activation.
        scale_shift: True if the time embedding scales and shifts the second normalisation, False
            if it is added before it.
        output_scale_factor: The sum of branch and shortcut is divided by it.
    """

    temb_channels: int | None
    groups: int
    eps: float
    act_fn: str
    scale_shift: bool = False
    output_scale_factor: float = 1.0


class ResnetBlock2D(nn.Module):
    """Twice normalise, activate, convolve; the time embedding enters in between.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; where they differ the shortcut is a 1x1 convolution.
        options: What the network's blocks have in common.
        resample: ``"up"`` doubles the resolution by repeating pixels, ``"down"`` halves it by
            averaging 2x2 pixels, on both branches; None keeps it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: ResnetOptions,
        *,
        resample: Literal["up", "down"] | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.scale_shift = options.scale_shift
        self.output_scale_factor = options.output_scale_factor
        self.time_channels = 2 * out_channels if options.scale_shift else out_channels
        self.norm1 = GroupNormAct(options.groups, in_channels, options.eps, options.act_fn)
        self.conv1 = Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        if options.temb_channels is not None:
            self.time_emb_proj = ConditionLinear(options.temb_channels, self.time_channels)
        self.norm2 = GroupNormAct(options.groups, out_channels, options.eps, options.act_fn)
        self.conv2 = Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.conv_shortcut: Conv2d | None = None
        if in_channels != out_channels:
            self.conv_shortcut = Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(
        self, sample: Tensor, time: Tensor | None = None, state: Tensor | None = None
    ) -> Tensor:
        """Run the block.

        Args:
            sample: ``[B, in_channels, H, W]``.
            time: ``[B or 1, time_channels]``, the output of ``time_emb_proj`` on the activated
                time embedding; None without one. It is an argument because it does not depend on
                the sample: a sampling loop computes it once for all steps.
            state: ``[B, C, H, W]``, the last C of the input channels, if ``sample`` has only those
                before them: where layers can read both, nothing is concatenated.

        Returns:
            ``[B, out_channels, H', W']``.
        """
        shortcut = self.conv_shortcut if self.resample is None else None
        sample, state = parts_for(shortcut, sample, state)
        hidden = self.norm1(sample, rest=state)
        upscale = 2 if self.resample == "up" else 1
        if self.resample == "down":
            hidden, sample = (F.avg_pool2d(x, kernel_size=2) for x in (hidden, sample))
        # One name, so that each tensor is freed as soon as the next one is there.
        hidden = self.conv1(hidden, shift=None if self.scale_shift else time, upscale=upscale)
        hidden = self.norm2(hidden, time if self.scale_shift else None)
        if self.conv_shortcut is not None:
            sample = self.conv_shortcut(sample, rest=state)
        # of half the size where the resolution doubles; a 1x1 shortcut gives the same before
        total: Tensor = self.conv2(hidden, residual=sample)
        return total if self.output_scale_factor == 1 else total / self.output_scale_factor
