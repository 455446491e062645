"""Encoder and decoder of the image autoencoders (Rombach et al. 2022, after Esser et al. 2021)."""

from __future__ import annotations

from itertools import repeat, zip_longest
from typing import TYPE_CHECKING, Literal

from torch import nn

from septet.nn.attention import SpatialAttention
from septet.nn.blocks import MidBlock2D
from septet.nn.conv import Conv2d
from septet.nn.norm import GroupNormAct
from septet.nn.resample import Downsample2D, Upsample2D
from septet.nn.resnet import ResnetBlock2D, ResnetOptions
from septet.ops import release_buffers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Where a UNet's blocks take their time embeddings from; it never ends.
_NO_TIMES = repeat(None)


class AutoencoderBlock2D(nn.Module):
    """A level: residual blocks, each perhaps followed by attention, then another resolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        options: What the network's residual blocks have in common.
        num_layers: Number of residual blocks.
        attends: Whether each is followed by attention with a single head.
        resample: ``"down"`` halves the resolution at the end, ``"up"`` doubles it; None keeps it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: ResnetOptions,
        *,
        num_layers: int,
        attends: bool,
        resample: Literal["down", "up"] | None,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList()
        self.resnets = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        for layer in range(num_layers):
            channels = in_channels if layer == 0 else out_channels
            self.resnets.append(ResnetBlock2D(channels, out_channels, options))
            if attends:
                attention = SpatialAttention(
                    out_channels, out_channels, groups=options.groups, eps=options.eps
                )
                self.attentions.append(attention)
        if resample == "down":
            self.downsamplers.append(Downsample2D(out_channels, padding=0))
        elif resample == "up":
            self.upsamplers.append(Upsample2D(out_channels))

    def forward(self, sample: Tensor) -> Tensor:
        """Map ``[B, in_channels, H, W]`` to ``[B, out_channels, H', W']``."""
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            sample = resnet(sample)
            if attention is not None:
                sample = attention(sample)
        for resampler in (*self.downsamplers, *self.upsamplers):
            sample = resampler(sample)
        return sample


class Encoder(nn.Module):
    """Maps images to what describes their latents, each level at half the resolution.

    Args:
        in_channels: Channels of an image.
        out_channels: Channels of the output.
        widths: Channels per level, highest resolution first.
        attends: Whether each level attends.
        options: What the residual blocks have in common.
        num_layers: Residual blocks per level.
        mid_attends: Whether the middle block attends.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        attends: Sequence[bool],
        options: ResnetOptions,
        *,
        num_layers: int,
        mid_attends: bool,
    ) -> None:
        super().__init__()
        self.conv_in = Conv2d(in_channels, widths[0], kernel_size=3, padding=1)
        self.down_blocks = _levels(widths, attends, options, num_layers, "down")
        self.mid_block = _mid_block(widths[-1], options, mid_attends)
        # The activation at the end is SiLU whatever the others are, as in diffusers.
        self.conv_norm_out = GroupNormAct(options.groups, widths[-1], options.eps, "silu")
        self.conv_out = Conv2d(widths[-1], out_channels, kernel_size=3, padding=1)

    def forward(self, sample: Tensor) -> Tensor:
        """Map ``[B, in_channels, H, W]`` to ``[B, out_channels, H / 2^n, W / 2^n]``.

        There are n + 1 levels; quotients are rounded down.
        """
        sample = self.conv_in(sample)
        for block in self.down_blocks:
            sample = block(sample)
        sample = self.mid_block(sample, _NO_TIMES)
        # One name, so that each tensor is freed as soon as the next one is there.
        sample = self.conv_norm_out(sample)
        encoded: Tensor = self.conv_out(sample)
        return encoded


class Decoder(nn.Module):
    """Maps latents to images, each level at twice the resolution.

    Args:
        in_channels: Channels of the latents.
        out_channels: Channels of an image.
        widths: Channels per level, highest resolution first.
        attends: Whether each level attends, lowest resolution first.
        options: What the residual blocks have in common.
        num_layers: Residual blocks per level.
        mid_attends: Whether the middle block attends.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        attends: Sequence[bool],
        options: ResnetOptions,
        *,
        num_layers: int,
        mid_attends: bool,
    ) -> None:
        super().__init__()
        widths = widths[::-1]
        self.conv_in = Conv2d(in_channels, widths[0], kernel_size=3, padding=1)
        self.up_blocks = _levels(widths, attends, options, num_layers, "up")
        self.mid_block = _mid_block(widths[0], options, mid_attends)
        self.conv_norm_out = GroupNormAct(options.groups, widths[-1], options.eps, "silu")
        self.conv_out = Conv2d(widths[-1], out_channels, kernel_size=3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Map ``[B, in_channels, H, W]`` to ``[B, out_channels, 2^n H, 2^n W]``.

        There are n + 1 levels.
        """
        sample = self.mid_block(self.conv_in(latents), _NO_TIMES)
        for block in self.up_blocks:
            release_buffers()
            sample = block(sample)
        sample = self.conv_norm_out(sample)
        decoded: Tensor = self.conv_out(sample)
        return decoded


def _levels(
    widths: Sequence[int],
    attends: Sequence[bool],
    options: ResnetOptions,
    num_layers: int,
    resample: Literal["down", "up"],
) -> nn.ModuleList:
    """Make the levels in the order in which they run; the last one keeps its resolution."""
    last = len(widths) - 1
    return nn.ModuleList(
        AutoencoderBlock2D(
            widths[max(level - 1, 0)],
            width,
            options,
            num_layers=num_layers,
            attends=attends[level],
            resample=resample if level < last else None,
        )
        for level, width in enumerate(widths)
    )


def _mid_block(channels: int, options: ResnetOptions, attends: bool) -> MidBlock2D:
    return MidBlock2D(
        channels,
        options,
        head_dim=channels if attends else None,
        attention_groups=options.groups,
    )
