"""The layers of a WaveNet for one run on the CPU, their weights packed and rescaled.

Three things leave oneDNN's convolutions with hardly anything between them:

* The residual path is kept without its factor of ``sqrt(1/2)`` per layer. That goes into the
  weights, and residual and skip path become sums that a convolution adds to on its way out. The
  step embedding of the next layer is part of the bias.
* ``tanh(x) = 2 sigmoid(2x) - 1``, so that one function serves filter and gate; both factors go
  into weights.
* The spectrogram's share is what the dilated convolution adds to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from septet.backend import current_backend
from septet.nn.conv import HAS_ONEDNN
from septet.nn.wavenet import MelMask, WaveNetLayer, stretch_mel


def can_pack(layers: Sequence[WaveNetLayer]) -> bool:
    """Tell whether oneDNN serves these layers; elsewhere they run as they are."""
    weight = layers[0].res_conv.weight
    return (
        HAS_ONEDNN
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and current_backend() == "fused"
    )


class PackedWaveNet:
    """All layers with the weights they have now; later changes are not seen.

    Args:
        layers: The layers, on the CPU, in float32.
    """

    def __init__(self, layers: Sequence[WaveNetLayer]) -> None:
        self._layers = [_PackedLayer(layer, index) for index, layer in enumerate(layers)]

    def project_mel(
        self, index: int, mel: Tensor, num_positions: int, mask: MelMask | None
    ) -> Tensor:
        """Do what :meth:`WaveNetLayer.project_mel` does for a layer, in this form's scale."""
        return self._layers[index].project_mel(mel, num_positions, mask)

    def __call__(
        self, hidden: Tensor, steps: Tensor, mels: Iterable[Tensor], mask: Tensor | None
    ) -> Tensor:
        """Run all layers.

        Args:
            hidden: ``[B, res_channels, 1, N]``, channels-last; overwritten.
            steps: ``[layers, 1, res_channels]``.
            mels: What :meth:`project_mel` returned, per layer.
            mask: ``[B, 1, 1, N]``, 0 beyond a sample's end.

        Returns:
            The sum of the layers' shares, ``[B, skip_channels, 1, N]``.
        """
        hidden += steps[0, 0, :, None, None]
        skips: Tensor | None = None
        # the last layer's residual path leads nowhere
        following = [*steps[1:, 0], None]
        for layer, step, mel in zip(self._layers, following, mels, strict=True):
            if mask is not None:
                hidden *= mask
            skips = layer(hidden, mel, step, skips)
        assert skips is not None
        return skips


class _PackedLayer:
    def __init__(self, layer: WaveNetLayer, index: int) -> None:
        conv, mel_conv = layer.dilated_conv_layer.conv, layer.mel_conv.conv
        scale = math.sqrt(2) ** index
        self._layer, self._scale = layer, scale
        self._padding, self._dilation = [0, int(conv.padding[0])], [1, int(conv.dilation[0])]
        # twice the filter's half, for tanh as a sigmoid
        doubled = torch.ones(conv.out_channels)
        doubled[: conv.out_channels // 2] = 2
        self._conv = self._pack(conv.weight * (doubled / scale)[:, None, None])
        self._mel = _pack_1x1(mel_conv.weight * doubled[:, None, None])
        self._mel_bias = (_bias(mel_conv) + _bias(conv)) * doubled
        self._residual = _pack_1x1(2 * scale * layer.res_conv.weight)
        self._residual_bias = scale * _bias(layer.res_conv)
        self._skip = _pack_1x1(2 * layer.skip_conv.weight)
        self._skip_bias = _bias(layer.skip_conv)

    def _pack(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            weight[:, :, None].contiguous(), self._padding, [1, 1], self._dilation, 1
        )
        return packed

    def project_mel(self, mel: Tensor, num_positions: int, mask: MelMask | None) -> Tensor:
        stretched = stretch_mel(self._layer, mel, num_positions, mask)
        return _convolve(stretched, self._mel, self._mel_bias)

    def __call__(
        self, hidden: Tensor, mel: Tensor, next_step: Tensor | None, skips: Tensor | None
    ) -> Tensor:
        """Add the layer's residual to ``hidden`` and return the skips with its share."""
        gates = torch.ops.mkldnn._convolution_pointwise.binary(
            hidden, mel, self._conv, None, self._padding, [1, 1], self._dilation, 1,
            "add", None, None, [], None,
        )  # fmt: skip
        filtered, gate = gates.sigmoid_().chunk(2, dim=1)
        # half the tanh, the other half is in the weights
        activated = filtered.sub_(0.5) * gate
        if next_step is not None:
            bias = torch.add(self._residual_bias, next_step, alpha=math.sqrt(2) * self._scale)
            _convolve_onto(hidden, activated, self._residual, bias)
        if skips is None:
            return _convolve(activated, self._skip, self._skip_bias)
        _convolve_onto(skips, activated, self._skip, self._skip_bias)
        return skips


def _bias(conv: torch.nn.Conv1d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _pack_1x1(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        weight[:, :, None].contiguous(), [0, 0], [1, 1], [1, 1], 1
    )
    return packed


def _convolve(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._convolution_pointwise.default(
        input, weight, bias, [0, 0], [1, 1], [1, 1], 1, "none", [], ""
    )
    return result


def _convolve_onto(target: Tensor, input: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Add a 1x1 convolution to a tensor in place."""
    torch.ops.mkldnn._convolution_pointwise_.binary(
        target, input, weight, bias, [0, 0], [1, 1], [1, 1], 1, "add", None, None, [], None
    )
