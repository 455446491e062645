"""The layers of a WaveNet that is conditioned on a noise level and a mel spectrogram.

Activations are ``[B, positions, channels]``: the channels of a position lie side by side, so that
all products are matrix products, whatever the dilation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.ops import empty_contiguous, needs_gradient, wavenet_layer

_LEAKY_SLOPE = 0.4


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

    def forward(self, input: Tensor, scale: float | None = None) -> Tensor:
        """Map ``[B, N, in_channels]`` to ``[B, N, out_channels]``; there must be one tap only.

        Args:
            input: The channels of every position.
            scale: By which the input is multiplied first.
        """
        weight = self.conv.weight[:, :, 0]
        return _linear(input, weight if scale is None else weight * scale, _bias(self.conv))


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

        The bias of this map is left to :meth:`forward`, which adds it with another one.

        Args:
            mel: ``[B, num_mels, frames]``.
            num_positions: Length of the result, at most frames times the product of the factors.
            mask: Which frames count.

        Returns:
            ``[B, num_positions, 2 * res_channels]``.
        """
        columns, stretch = mel.transpose(1, 2), 1
        for module, factor in zip(self.upsample_conv2d, self.upsample_factors, strict=True):
            conv = cast("nn.ConvTranspose2d", module)
            columns = F.leaky_relu_(_stretch(conv, columns, factor), _LEAKY_SLOPE)
            stretch *= factor
            if mask is not None:
                columns = columns * mask(stretch, columns.shape[1])[:, :, None]
        return F.linear(columns[:, :num_positions], self.mel_conv.conv.weight[:, :, 0])

    def forward(
        self,
        input: Tensor,
        step: Tensor,
        mel: Tensor,
        mask: Tensor | None = None,
        skips: Tensor | None = None,
        is_last: bool = False,
    ) -> tuple[Tensor | None, Tensor]:
        """Run the layer.

        Args:
            input: ``[B, N, res_channels]``, left unchanged.
            step: ``[B or 1, res_channels]``, the step embedding after ``fc_t``.
            mel: ``[B, N, 2 * res_channels]`` of :meth:`project_mel`.
            mask: ``[B, N]``, 0 beyond a sample's end.
            skips: ``[B, N, skip_channels]``, the earlier layers' share of the output; it may be
                overwritten.
            is_last: Whether there is no next layer.

        Returns:
            The input of the next layer, None if there is none, and the share of the output of all
            layers so far.
        """
        conv = self.dilated_conv_layer.conv
        bias = _bias(conv) + _bias(self.mel_conv.conv)
        return wavenet_layer(
            input, step, mel, conv.weight, bias, self.res_conv.weight,
            _bias(self.res_conv), self.skip_conv.weight, _bias(self.skip_conv),
            dilation=conv.dilation[0], mask=mask, skips=skips, is_last=is_last,
        )  # fmt: skip


class MelMask:
    """Tells which columns of stretched spectrograms lie within their samples.

    Args:
        lengths: ``[B]``, frames per sample.
    """

    def __init__(self, lengths: Tensor) -> None:
        self.lengths = lengths

    def __call__(self, factor: int, length: int) -> Tensor:
        """Return ``[B, length]`` bools for spectrograms stretched by ``factor``."""
        columns = torch.arange(length, device=self.lengths.device)
        return columns < factor * self.lengths[:, None]


def he_conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Conv1d:
    """Make a convolution that keeps the length, with He's initial weights as the authors'."""
    padding = dilation * (kernel_size - 1) // 2
    conv = nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation, padding=padding)
    if not conv.weight.is_meta:
        nn.init.kaiming_normal_(conv.weight)
    return conv


def _stretch(conv: nn.ConvTranspose2d, columns: Tensor, factor: int) -> Tensor:
    """Apply a transposed convolution of :func:`_stretching` to ``[B, W, H]``, columns first.

    Every output column depends on three columns at most, so a small matrix per input column does
    the same: from the nine values around each of its places to the output columns before the next.
    A convolution of torch would take about as long, but its rounding depends on how many threads
    there are.

    Returns:
        ``[B, factor * W, H]``.
    """
    before = factor - int(conv.padding[1])
    taps = F.pad(conv.weight[0, 0].flip(0), (before, factor - before))
    kernel = taps.view(3, 3, factor).flip(1).permute(2, 1, 0)
    assert conv.bias is not None
    batch, width, height = columns.shape
    # [B, W, 3 columns, 3 shifts, H]
    around = F.pad(columns, (1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, height, 1).transpose(2, 3)
    matrices = kernel.reshape(1, factor, 9).expand(batch * width, -1, -1)
    around = around.reshape(batch * width, 9, height)
    if not _infers(around, matrices):
        return torch.baddbmm(conv.bias, matrices, around).view(batch, factor * width, height)
    out = empty_contiguous(columns[:, :1].expand(-1, factor * width, -1))
    torch.baddbmm(conv.bias, matrices, around, out=out.view(batch * width, factor, height))
    return out


def _linear(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear layer; for inference on the CPU into memory that is used again.

    The results have tens of megabytes, and the pages of fresh memory take as long as the product.
    """
    if not _infers(input, weight, bias):
        return F.linear(input, weight, bias)
    out = empty_contiguous(input[..., :1].expand(*input.shape[:-1], len(weight)))
    rows, sums = input.reshape(-1, weight.shape[1]), out.view(-1, len(weight))
    if weight.shape[1] == 1:
        torch.addcmul(bias, rows, weight[:, 0], out=sums)
    else:
        torch.addmm(bias, rows, weight.t(), out=sums)
    return out


def _infers(*tensors: Tensor) -> bool:
    """Tell whether results may be written to memory of ours: on the CPU, and no gradients."""
    is_on_cpu = tensors[0].device.type == "cpu"
    return is_on_cpu and not needs_gradient(*tensors) and not torch.compiler.is_compiling()


def _bias(conv: nn.Conv1d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _stretching(factor: int) -> nn.ConvTranspose2d:
    conv = nn.ConvTranspose2d(1, 1, (3, 2 * factor), stride=(1, factor), padding=(1, factor // 2))
    if not conv.weight.is_meta:
        nn.init.kaiming_normal_(conv.weight)
    return conv
