"""The down, middle and up blocks of a UNet.

Every block takes, beside the sample, an iterator over the projected time embeddings of its
residual blocks, in the order in which it runs them: the order of its ``resnet_blocks()``. Blocks
with spatial transformers also take the text, with keys and values in the order of their
``cross_attentions()``.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from torch import nn

from septet.nn.attention import SpatialAttention
from septet.nn.context import TextContext, repeat_rows
from septet.nn.resample import Downsample2D, Upsample2D
from septet.nn.resnet import ResnetBlock2D, ResnetOptions
from septet.nn.transformer import CrossAttention, SpatialTransformer, TransformerOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

Resampling = Literal["conv", "resnet"]


def _resnet_blocks(*lists: Iterable[nn.Module]) -> list[ResnetBlock2D]:
    """Keep the residual blocks among the modules, in order."""
    return [module for modules in lists for module in modules if isinstance(module, ResnetBlock2D)]


def _cross_attentions(attentions: Iterable[nn.Module]) -> list[CrossAttention]:
    """Collect the layers that read the text, in order."""
    transformers = (module for module in attentions if isinstance(module, SpatialTransformer))
    return [layer for transformer in transformers for layer in transformer.cross_attentions()]


def _attention(
    channels: int,
    options: ResnetOptions,
    head_dim: int | None,
    transformer: TransformerOptions | None,
    layer: int,
) -> nn.ModuleList:
    """Make what follows a residual block, if anything does."""
    if transformer is not None:
        layers = transformer.layers[layer]
        return nn.ModuleList([SpatialTransformer(channels, layers, options.groups, transformer)])
    if head_dim is not None:
        attention = SpatialAttention(channels, head_dim, groups=options.groups, eps=options.eps)
        return nn.ModuleList([attention])
    return nn.ModuleList()


def _attend(attention: nn.Module, sample: Tensor, context: TextContext | None) -> Tensor:
    """Run an attention layer, which only as a spatial transformer reads the text."""
    if isinstance(attention, SpatialTransformer):
        assert context is not None
        attended: Tensor = attention(sample, context)
    else:
        attended = attention(sample)
    return attended


class DownBlock2D(nn.Module):
    """Residual blocks, each perhaps followed by attention, then perhaps half the resolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        options: What the network's residual blocks have in common.
        num_layers: Number of residual blocks.
        head_dim: Width of a head of self-attention; None for a block without.
        transformer: How its spatial transformers are built; None for a block without.
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
        transformer: TransformerOptions | None = None,
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
            self.attentions.extend(_attention(out_channels, options, head_dim, transformer, layer))
        if downsample == "conv":
            self.downsamplers.append(Downsample2D(out_channels, downsample_padding))
        elif downsample == "resnet":
            halve = ResnetBlock2D(out_channels, out_channels, options, resample="down")
            self.downsamplers.append(halve)

    def resnet_blocks(self) -> list[ResnetBlock2D]:
        """List the residual blocks in the order in which they run."""
        return _resnet_blocks(self.resnets, self.downsamplers)

    def cross_attentions(self) -> list[CrossAttention]:
        """List the layers that read the text in the order in which they run."""
        return _cross_attentions(self.attentions)

    def forward(
        self, sample: Tensor, times: Iterator[Tensor], context: TextContext | None = None
    ) -> list[Tensor]:
        """Run the block.

        Args:
            sample: ``[B, in_channels, H, W]``.
            times: One projected time embedding per residual block.
            context: The text, for a block with spatial transformers.

        Returns:
            The state after each layer; the last of them is the output of the block.
        """
        states = []
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            sample = resnet(sample, next(times))
            if attention is not None:
                sample = _attend(attention, sample, context)
            states.append(sample)
        for downsampler in self.downsamplers:
            if isinstance(downsampler, Downsample2D):
                states.append(downsampler(sample))
            else:
                states.append(downsampler(sample, next(times)))
        return states


class MidBlock2D(nn.Module):
    """Residual blocks with attention between them, at the lowest resolution.

    Args:
        channels: Channels of input and output.
        options: What the residual blocks have in common.
        head_dim: Width of an attention head; None for no attention.
        attention_groups: Groups of the normalisation before the attention, None for none.
        transformer: How a spatial transformer in place of the attention is built, None for none.
        num_layers: Number of residual blocks after the first, each with attention before it.
    """

    def __init__(
        self,
        channels: int,
        options: ResnetOptions,
        *,
        head_dim: int | None = None,
        attention_groups: int | None = None,
        transformer: TransformerOptions | None = None,
        num_layers: int = 1,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList()
        for layer in range(num_layers):
            self.attentions.extend(_attention(channels, options, None, transformer, layer))
        if head_dim is not None:
            attention = SpatialAttention(
                channels,
                head_dim,
                groups=attention_groups,
                eps=options.eps,
                output_scale_factor=options.output_scale_factor,
            )
            self.attentions.append(attention)
        self.resnets = nn.ModuleList(
            ResnetBlock2D(channels, channels, options) for _ in range(1 + num_layers)
        )

    def resnet_blocks(self) -> list[ResnetBlock2D]:
        """List the residual blocks in the order in which they run."""
        return _resnet_blocks(self.resnets)

    def cross_attentions(self) -> list[CrossAttention]:
        """List the layers that read the text in the order in which they run."""
        return _cross_attentions(self.attentions)

    def forward(
        self, sample: Tensor, times: Iterator[Tensor], context: TextContext | None = None
    ) -> Tensor:
        """Map ``[B, channels, H, W]`` to the same shape; the rest as in the other blocks."""
        first, *others = self.resnets
        sample = first(sample, next(times))
        for attention, resnet in zip_longest(self.attentions, others):
            if attention is not None:
                sample = _attend(attention, sample, context)
            sample = resnet(sample, next(times))
        return sample


class UpBlock2D(nn.Module):
    """Residual blocks that also read the states of the way down, then perhaps double resolution.

    Args:
        in_channels: Channels of the last state read, the one from the level above.
        prev_channels: Channels of the input.
        out_channels: Channels of the output and of the other states read.
        options: What the network's residual blocks have in common.
        num_layers: Number of residual blocks, each of which reads one state.
        head_dim: Width of a head of self-attention; None for a block without.
        transformer: How its spatial transformers are built; None for a block without.
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
        transformer: TransformerOptions | None = None,
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
            self.attentions.extend(_attention(out_channels, options, head_dim, transformer, layer))
        if upsample == "conv":
            self.upsamplers.append(Upsample2D(out_channels))
        elif upsample == "resnet":
            double = ResnetBlock2D(out_channels, out_channels, options, resample="up")
            self.upsamplers.append(double)

    def resnet_blocks(self) -> list[ResnetBlock2D]:
        """List the residual blocks in the order in which they run."""
        return _resnet_blocks(self.resnets, self.upsamplers)

    def cross_attentions(self) -> list[CrossAttention]:
        """List the layers that read the text in the order in which they run."""
        return _cross_attentions(self.attentions)

    def forward(
        self,
        sample: Tensor,
        states: list[Tensor],
        times: Iterator[Tensor],
        context: TextContext | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            sample: ``[B, prev_channels, H, W]``.
            states: The states of the way down; the block takes its own from the end of the list.
            times: One projected time embedding per residual block.
            context: The text, for a block with spatial transformers.

        Returns:
            ``[B, out_channels, H', W']``; doubled, it has the size of the next state.
        """
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            # A state from before the text came in serves both halves of guidance.
            state = repeat_rows(states.pop(), sample.shape[0])
            sample = resnet(sample, next(times), state)
            if attention is not None:
                sample = _attend(attention, sample, context)
        for upsampler in self.upsamplers:
            if isinstance(upsampler, Upsample2D):
                sample = upsampler(sample, states[-1].shape[2:])
            else:
                sample = upsampler(sample, next(times))
        return sample
