"""The layers of a WaveNet that is conditioned on a noise level and a mel spectrogram.

Activations are ``[B, channels, 1, positions]`` in channels-last memory: the channels of a position
lie side by side, so that all products are matrix products, whatever the dilation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAKY_SLOPE = 0.4
_RESIDUAL_SCALE = math.sqrt(0.5)


class NamedConv(nn.Module):
    """A convolution under the name ``conv``, as the authors' wrapper class has it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd; the length is kept.
        dilation: Distance of the taps.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = he_conv(in_channels, out_channels, kernel_size, dilation)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, in_channels, 1, N]`` to ``[B, out_channels, 1, N]``."""
        return conv_positions(self.conv, input)


class WaveNetLayer(nn.Module):
    """One layer of DiffWave (Kong et al. 2021, figure 2) in BDDM's variant.

    The projected step embedding is added to the residual path itself, not to a copy of it that
    only the convolution sees, as in the paper: the published weights depend on that.

    Args:
        res_channels: Width of the residual path.
        skip_channels: Width of the output's share.
        dilation: Distance of the convolution's three taps.
        embed_dim: Width of the step embedding.
        num_mels: Bands of the mel spectrogram.
        upsample_factors: By which the mel spectrogram is stretched.
    """

    def __init__(
        self,
        res_channels: int,
        skip_channels: int,
        dilation: int,
        *,
        embed_dim: int,
        num_mels: int,
        upsample_factors: Sequence[int],
    ) -> None:
        super().__init__()
        self.upsample_factors = tuple(upsample_factors)
        self.fc_t = nn.Linear(embed_dim, res_channels)
        self.dilated_conv_layer = NamedConv(res_channels, 2 * res_channels, 3, dilation)
        self.upsample_conv2d = nn.ModuleList(_stretching(factor) for factor in upsample_factors)
        self.mel_conv = NamedConv(num_mels, 2 * res_channels, 1)
        self.res_conv = he_conv(res_channels, res_channels, 1)
        self.skip_conv = he_conv(res_channels, skip_channels, 1)

    def project_mel(self, mel: Tensor, num_positions: int, mask: MelMask | None = None) -> Tensor:
        """Stretch a mel spectrogram and map it to what is added to the dilated convolution.

        Args:
            mel: ``[B, num_mels, frames]``.
            num_positions: Length of the result, at most frames times the product of the factors.
            mask: Which frames count.

        Returns:
            ``[B, 2 * res_channels, 1, num_positions]``.
        """
        projected: Tensor = self.mel_conv(stretch_mel(self, mel, num_positions, mask))
        return projected

    def forward(
        self, input: Tensor, step: Tensor, mel: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            input: ``[B, res_channels, 1, N]``, left unchanged.
            step: ``[B or 1, res_channels]``, the step embedding after ``fc_t``.
            mel: ``[B, 2 * res_channels, 1, N]`` of :meth:`project_mel`.
            mask: ``[B, 1, 1, N]``, 0 beyond a sample's end.

        Returns:
            The input of the next layer, and ``[B, skip_channels, 1, N]``, the output's share.
        """
        shifted = input + step[:, :, None, None]
        if mask is not None:
            shifted = shifted * mask
        filtered, gate = (self.dilated_conv_layer(shifted) + mel).chunk(2, dim=1)
        activated = torch.tanh(filtered) * torch.sigmoid(gate)
        residual = conv_positions(self.res_conv, activated)
        skip = conv_positions(self.skip_conv, activated)
        return (shifted + residual) * _RESIDUAL_SCALE, skip


def stretch_mel(
    layer: WaveNetLayer, mel: Tensor, num_positions: int, mask: MelMask | None = None
) -> Tensor:
    """Stretch a mel spectrogram to the length of a layer's activations.

    Args:
        layer: The layer whose transposed convolutions do it.
        mel: See :meth:`WaveNetLayer.project_mel`, as for the others.
        num_positions: The same.
        mask: The same.

    Returns:
        ``[B, num_mels, 1, num_positions]``, channels-last.
    """
    image, stretch = mel[:, None], 1
    for conv, factor in zip(layer.upsample_conv2d, layer.upsample_factors, strict=True):
        image = F.leaky_relu(conv(image), _LEAKY_SLOPE)
        stretch *= factor
        # An odd factor gives one column too many.
        image = image[..., : mel.shape[-1] * stretch]
        if mask is not None:
            image = image * mask(stretch, image.shape[-1])
    return channels_last(image[:, 0, :, None, :num_positions])


class MelMask:
    """Tells which columns of stretched spectrograms lie within their samples.

    Args:
        lengths: ``[B]``, frames per sample.
    """

    def __init__(self, lengths: Tensor) -> None:
        self.lengths = lengths

    def __call__(self, factor: int, length: int) -> Tensor:
        """Return ``[B, 1, 1, length]`` bools for spectrograms stretched by ``factor``."""
        columns = torch.arange(length, device=self.lengths.device)
        return (columns < factor * self.lengths[:, None])[:, None, None]


def he_conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Conv1d:
    """Make a convolution that keeps the length, with He's initial weights as the authors'."""
    padding = dilation * (kernel_size - 1) // 2
    conv = nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation, padding=padding)
    if not conv.weight.is_meta:
        nn.init.kaiming_normal_(conv.weight)
    return conv


def conv_positions(conv: nn.Conv1d, input: Tensor) -> Tensor:
    """Apply a convolution over positions to ``[B, channels, 1, N]``.

    As a convolution over images of height 1 it takes oneDNN's fast path at every dilation; as one
    over sequences it does not.
    """
    return F.conv2d(
        input,
        conv.weight[:, :, None],
        conv.bias,
        padding=(0, int(conv.padding[0])),
        dilation=(1, conv.dilation[0]),
    )


def channels_last(input: Tensor) -> Tensor:
    """Bring ``[B, channels, 1, N]`` into channels-last memory."""
    return input.contiguous(memory_format=torch.channels_last)


def _stretching(factor: int) -> nn.ConvTranspose2d:
    conv = nn.ConvTranspose2d(1, 1, (3, 2 * factor), stride=(1, factor), padding=(1, factor // 2))
    if not conv.weight.is_meta:
        nn.init.kaiming_normal_(conv.weight)
    return conv
