"""The blocks of GLIDE's image networks (Nichol et al. 2021), with the authors' names of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import nn

from septet.nn.conv import Conv2d, parts_for
from septet.nn.linear import PointwiseConv1d, as_tokens, image_of, sum_with
from septet.nn.norm import GroupNormAct
from septet.ops import attention

if TYPE_CHECKING:
    from torch import Tensor

#: Keys and values of a text, ``[B, P, heads, head_dim]`` each.
TextKeysValues = tuple["Tensor", "Tensor"]

_EPS = 1e-5


@dataclass(frozen=True)
class GlideBlockOptions:
    """What all blocks of one network have in common.

    Attributes:
        embedding_channels: Width of the embedding of timestep and text.
        text_channels: Width of the encoded text, None for a network that reads none.
        groups: Groups of the normalisations.
        head_channels: Width of an attention head; None means ``num_heads`` heads.
        num_heads: Number of attention heads where their width is not given.
        dropout: Share of channels dropped in residual blocks while training.
    """

    embedding_channels: int
    text_channels: int | None
    groups: int
    head_channels: int | None
    num_heads: int
    dropout: float


class GlideResBlock(nn.Module):
    """Normalise, resample, convolve; scale and shift by the embedding; convolve; add the input.

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
        options: GlideBlockOptions,
        *,
        resample: Literal["up", "down"] | None = None,
    ) -> None:
        super().__init__()
        self.time_channels = 2 * out_channels
        # The authors' lists, in which places without weights count: here the resampling fills one.
        self.in_layers = nn.Sequential(
            GroupNormAct(options.groups, in_channels, _EPS, "silu"),
            _resampler(resample),
            Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(options.embedding_channels, self.time_channels)
        )
        self.out_layers = nn.Sequential(
            GroupNormAct(options.groups, out_channels, _EPS, "silu"),
            nn.Identity(),
            nn.Dropout(options.dropout),
            zero_module(Conv2d(out_channels, out_channels, kernel_size=3, padding=1)),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip_connection = Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, sample: Tensor, time: Tensor, state: Tensor | None = None) -> Tensor:
        """Run the block.

        Args:
            sample: ``[B, in_channels, H, W]``.
            time: ``[B or 1, 2 * out_channels]``, what ``emb_layers`` makes of the embedding. It is
                an argument because it does not depend on the sample.
            state: ``[B, C, H, W]``, the last C of the input channels, if ``sample`` has only those
                before them: where layers can read both, nothing is concatenated.

        Returns:
            ``[B, out_channels, H', W']``.
        """
        norm_in, resample, convolve_in = self.in_layers
        norm, _, dropout, convolve = self.out_layers
        shortcut = self.skip_connection
        keeps_size = isinstance(resample, nn.Identity)
        sample, state = parts_for(shortcut if keeps_size else None, sample, state)
        hidden = norm_in(sample, rest=state)
        upscale = 2 if isinstance(resample, nn.Upsample) else 1
        if upscale == 1:
            hidden, sample = resample(hidden), resample(sample)
        hidden = dropout(norm(convolve_in(hidden, upscale=upscale), time))
        # of half the size where the resolution doubles; a 1x1 shortcut gives the same before
        residual = shortcut(sample) if state is None else shortcut(sample, rest=state)
        result: Tensor = convolve(hidden, residual=residual)
        return result


def _resampler(resample: Literal["up", "down"] | None) -> nn.Module:
    if resample == "up":
        return nn.Upsample(scale_factor=2.0, mode="nearest")
    return nn.AvgPool2d(2) if resample == "down" else nn.Identity()


class GlideAttentionBlock(nn.Module):
    """Every pixel attends to every token of the text and every pixel; the input is added.

    Args:
        channels: Channels of input and output.
        options: What the network's blocks have in common.
    """

    def __init__(self, channels: int, options: GlideBlockOptions) -> None:
        super().__init__()
        width = options.head_channels
        self.heads = options.num_heads if width is None else channels // width
        self.norm = GroupNormAct(options.groups, channels, _EPS)
        self.qkv = PointwiseConv1d(channels, 3 * channels)
        if options.text_channels is not None:
            self.encoder_kv = PointwiseConv1d(options.text_channels, 2 * channels)
        self.proj_out = zero_module(PointwiseConv1d(channels, channels))

    def project_text(self, text: Tensor) -> TextKeysValues:
        """Return the keys and values of an encoded text ``[B, P, text_channels]``."""
        key, value = self.encoder_kv(text).unflatten(-1, (self.heads, 2, -1)).unbind(-2)
        return key, value

    def forward(self, sample: Tensor, text: TextKeysValues | None = None) -> Tensor:
        """Run the block.

        Args:
            sample: ``[B, C, H, W]``; channels_last is read and written without a copy.
            text: What :meth:`project_text` returned, of B texts or of one. It does not depend on
                the sample.

        Returns:
            ``[B, C, H, W]``.
        """
        tokens = as_tokens(self.norm(sample))
        # packed head by head, each with its queries, keys and values
        query, key, value = self.qkv(tokens).unflatten(-1, (self.heads, 3, -1)).unbind(-2)
        prefix_key, prefix_value = (None, None) if text is None else text
        if prefix_key is not None and prefix_value is not None:  # one text may serve all rows
            prefix_key = prefix_key.expand(sample.shape[0], -1, -1, -1)
            prefix_value = prefix_value.expand(sample.shape[0], -1, -1, -1)
        hidden = attention(query, key, value, prefix_key=prefix_key, prefix_value=prefix_value)
        return image_of(sum_with(self.proj_out, hidden.flatten(2), as_tokens(sample)), sample)


def zero_module(module: nn.Module) -> nn.Module:
    """Set the weights of a layer to zero, so that its block starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
