"""The down, middle and up blocks of a UNet.

Every block takes, beside the sample, an iterator over the projected time embeddings of its
residual blocks, in the order in which it runs them: the order of its ``resnet_blocks()``.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from septet.nn.attention import SpatialAttention
from septet.nn.resample import Downsample2D, Upsample2D
from septet.nn.resnet import ResnetBlock2D, ResnetOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

Resampling = Literal["conv", "resnet"]


def _resnet_blocks(*lists: Iterable[nn.Module]) -> list[ResnetBlock2D]:
    """Keep the residual blocks among the modules, in order."""
    return [module for modules in lists for module in modules if isinstance(module, ResnetBlock2D)]


class DownBlock2D(nn.Module):
    """Residual blocks, each perhaps followed by attention, then perhaps half the resolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        options: What the network's residual blocks have in common.
        num_layers: Number of residual blocks.
        head_dim: Width of an attention head; None for a block without attention.
        downsample: How to halve the resolution at the end; None keeps it.
        downsample_padding: See :class:`septet.nn.Downsample2D`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: ResnetOptions,
        *,
        num_layers: int,
        head_dim: int | None = None,
        downsample: Resampling | None = None,
        downsample_padding: int = 1,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList()
        self.resnets = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        for layer in range(num_layers):
            channels = in_channels if layer == 0 else out_channels
            self.resnets.append(ResnetBlock2D(channels, out_channels, options))
            if head_dim is not None:
                attention = SpatialAttention(
                    out_channels, head_dim, groups=options.groups, eps=options.eps
                )
                self.attentions.append(attention)
        if downsample == "conv":
            self.downsamplers.append(Downsample2D(out_channels, downsample_padding))
        elif downsample == "resnet":
            halve = ResnetBlock2D(out_channels, out_channels, options, resample="down")
            self.downsamplers.append(halve)

    def resnet_blocks(self) -> list[ResnetBlock2D]:
        """List the residual blocks in the order in which they run."""
        return _resnet_blocks(self.resnets, self.downsamplers)

    def forward(self, sample: Tensor, times: Iterator[Tensor]) -> list[Tensor]:
        """Run the block.

        Args:
            sample: ``[B, in_channels, H, W]``.
            times: One projected time embedding per residual block.

        Returns:
            The state after each layer; the last of them is the output of the block.
        """
        states = []
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            sample = resnet(sample, next(times))
            if attention is not None:
                sample = attention(sample)
            states.append(sample)
        for downsampler in self.downsamplers:
            states.append(_apply(downsampler, sample, times))
        return states


class MidBlock2D(nn.Module):
    """Two residual blocks with attention between them, at the lowest resolution.

    Args:
        channels: Channels of input and output.
        options: What the residual blocks have in common.
        head_dim: Width of an attention head; None for no attention.
        attention_groups: Groups of the normalisation before the attention, None for none.
    """

    def __init__(
        self,
        channels: int,
        options: ResnetOptions,
        *,
        head_dim: int | None,
        attention_groups: int | None,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList()
        if head_dim is not None:
            attention = SpatialAttention(
                channels,
                head_dim,
                groups=attention_groups,
                eps=options.eps,
                output_scale_factor=options.output_scale_factor,
            )
            self.attentions.append(attention)
        self.resnets = nn.ModuleList(ResnetBlock2D(channels, channels, options) for _ in range(2))

    def resnet_blocks(self) -> list[ResnetBlock2D]:
        """List the residual blocks in the order in which they run."""
        return _resnet_blocks(self.resnets)

    def forward(self, sample: Tensor, times: Iterator[Tensor]) -> Tensor:
        """Map ``[B, channels, H, W]`` to the same shape; ``times`` as in the other blocks."""
        first, second = self.resnets
        sample = first(sample, next(times))
        for attention in self.attentions:
            sample = attention(sample)
        result: Tensor = second(sample, next(times))
        return result


class UpBlock2D(nn.Module):
    """Residual blocks that also read the states of the way down, then perhaps double resolution.

    Args:
        in_channels: Channels of the last state read, the one from the level above.
        prev_channels: Channels of the input.
        out_channels: Channels of the output and of the other states read.
        options: What the network's residual blocks have in common.
        num_layers: Number of residual blocks, each of which reads one state.
        head_dim: Width of an attention head; None for a block without attention.
        upsample: How to double the resolution at the end; None keeps it.
    """

    def __init__(
        self,
        in_channels: int,
        prev_channels: int,
        out_channels: int,
        options: ResnetOptions,
        *,
        num_layers: int,
        head_dim: int | None = None,
        upsample: Resampling | None = None,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList()
        self.resnets = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        for layer in range(num_layers):
            channels = prev_channels if layer == 0 else out_channels
            state_channels = in_channels if layer == num_layers - 1 else out_channels
            self.resnets.append(ResnetBlock2D(channels + state_channels, out_channels, options))
            if head_dim is not None:
                attention = SpatialAttention(
                    out_channels, head_dim, groups=options.groups, eps=options.eps
                )
                self.attentions.append(attention)
        if upsample == "conv":
            self.upsamplers.append(Upsample2D(out_channels))
        elif upsample == "resnet":
            double = ResnetBlock2D(out_channels, out_channels, options, resample="up")
            self.upsamplers.append(double)

    def resnet_blocks(self) -> list[ResnetBlock2D]:
        """List the residual blocks in the order in which they run."""
        return _resnet_blocks(self.resnets, self.upsamplers)

    def forward(self, sample: Tensor, states: list[Tensor], times: Iterator[Tensor]) -> Tensor:
        """Run the block.

        Args:
            sample: ``[B, prev_channels, H, W]``.
            states: The states of the way down; the block takes its own from the end of the list.
            times: One projected time embedding per residual block.

        Returns:
            ``[B, out_channels, H', W']``.
        """
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            sample = resnet(torch.cat([sample, states.pop()], dim=1), next(times))
            if attention is not None:
                sample = attention(sample)
        for upsampler in self.upsamplers:
            sample = _apply(upsampler, sample, times)
        return sample


def _apply(resampler: nn.Module, sample: Tensor, times: Iterator[Tensor]) -> Tensor:
    """Run a resampling layer, which only as a residual block needs the time."""
    if isinstance(resampler, ResnetBlock2D):
        resized: Tensor = resampler(sample, next(times))
    else:
        resized = resampler(sample)
    return resized
