"""Convolutions of sequences whose bits do not depend on the number of threads.

torch's do in inference on the CPU: oneDNN divides the sums of a layer of width 1, and those of a
transposed one, by the number of threads.
"""

from __future__ import annotations

from torch import Tensor, nn

from septet.nn.conv import convolution_packs
from septet.nn.packing import KeepsCopies
from septet.ops import ConvLayer, chosen_convolution, conv2d, pack_conv2d


class Conv1d(KeepsCopies, nn.Conv1d):
    """``torch.nn.Conv1d`` with the same parameters, for inference on the CPU by our kernel."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``[B, in_channels, T]`` to ``[B, out_channels, T']``; the layout may differ."""
        layer = ConvLayer(
            (1, *self.kernel_size), (1, *self.stride), (1, *self.dilation), self.groups, 1
        )
        if not _serves(self, input, layer):
            return super().forward(input)
        return conv2d(
            input[:, :, None],
            self._copy_of(self.weight, lambda weight: pack_conv2d(weight[:, :, None])),
            self.bias,
            stride=layer.stride,
            padding=(0, int(self.padding[0])),
            dilation=layer.dilation,
        )[:, :, 0]


class ConvTranspose1d(KeepsCopies, nn.ConvTranspose1d):
    """``torch.nn.ConvTranspose1d`` with the same parameters, run as :class:`Conv1d` is.

    Output ``stride * n + r`` is a sum over inputs near n whose weights depend on r alone, so an
    ordinary convolution computes the outputs of every n as ``stride`` groups of channels.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve ``[B, in_channels, T]`` to ``[B, out_channels, T']``."""
        stride, padding = self.stride[0], int(self.padding[0])
        layer = ConvLayer((1, 1), (1, 1), (1, *self.dilation), self.groups, 1)
        # Such a layer makes stride * T outputs, whole groups for every input.
        is_whole = self.kernel_size[0] + int(self.output_padding[0]) == stride + 2 * padding
        is_plain = is_whole and self.dilation == (1,) and output_size is None
        if not is_plain or not _serves(self, input, layer):
            return super().forward(input, output_size)
        phases = conv2d(
            input[:, :, None],
            self._copy_of(self.weight, lambda weight: pack_conv2d(self._phases(weight))),
            None if self.bias is None else self.bias.repeat(stride),
            padding=(0, self._reach()),
        )
        # [B, T, stride * out_channels] in memory, which is [B, stride * T, out_channels]
        outputs = phases[:, :, 0].transpose(1, 2).reshape(len(input), -1, self.out_channels)
        return outputs.transpose(1, 2).contiguous()

    def _reach(self) -> int:
        """Return how many inputs on either side of n its outputs depend on."""
        stride, padding = self.stride[0], int(self.padding[0])
        ahead = (stride - 1 + padding) // stride
        return max(ahead, (self.kernel_size[0] - 1 - padding) // stride)

    def _phases(self, weight: Tensor) -> Tensor:
        """Return the weights of the ordinary convolution.

        Args:
            weight: ``[in_channels, out_channels, taps]``.

        Returns:
            ``[stride * out_channels, in_channels, 1, 2 * reach + 1]``.
        """
        stride, padding, reach = self.stride[0], int(self.padding[0]), self._reach()
        # Input n + m has the tap r + padding - stride * m, m from -reach to reach.
        around = weight.new_zeros(*weight.shape[:2], stride * (2 * reach + 1))
        start = stride * reach - padding
        around[..., start : start + weight.shape[2]] = weight
        split = around.view(*weight.shape[:2], -1, stride).flip(2)  # [in, out, m, r]
        return split.permute(3, 1, 0, 2).flatten(0, 1)[:, :, None]


def _serves(module: nn.Conv1d | nn.ConvTranspose1d, input: Tensor, layer: ConvLayer) -> bool:
    """Tell whether our kernel computes this call."""
    return (
        input.dim() == 3
        and input.shape[1] == module.in_channels
        and convolution_packs(module, input)
        and chosen_convolution(layer) != "torch"
    )
