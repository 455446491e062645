"""Layers of DiffWave whose results lie in memory that is used again, against float64."""

from __future__ import annotations

import pytest
import torch

from septet.nn.wavenet import NamedConv, WaveNetLayer
from septet.testing.tolerances import relative_error


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("channels", [(1, 64), (64, 64), (64, 1)])
@pytest.mark.parametrize("positions", [3, 3000])
def test_pointwise(channels, positions):
    layer, sample = NamedConv(*channels, 1), torch.randn(2, positions, channels[0])
    weight, bias = layer.conv.weight[:, :, 0].double(), layer.conv.bias.double()
    expected = sample.double() @ (0.5 * weight).t() + bias
    with torch.no_grad():
        result = layer(sample, 0.5)
    assert relative_error(result, expected) <= 1e-6
    assert relative_error(layer(sample, 0.5), expected) <= 1e-6
    expected.square().mean().backward()
    gradient, layer.conv.weight.grad = layer.conv.weight.grad, None
    layer(sample, 0.5).square().mean().backward()
    assert relative_error(layer.conv.weight.grad, gradient) <= 1e-5


@pytest.mark.parametrize("batch", [1, 2])
def test_stretched_spectrograms(batch):
    layer = WaveNetLayer(32, 32, 1, embed_dim=8, num_mels=20, upsample_factors=(4, 6))
    mel, positions = torch.randn(batch, 20, 240), 5755
    stretched = mel[:, None].double()
    for conv in layer.double().upsample_conv2d:
        stretched = torch.nn.functional.leaky_relu(conv(stretched), 0.4)
    expected = layer.mel_conv.conv.weight[:, :, 0] @ stretched[:, 0, :, :positions]
    layer.float()
    with torch.no_grad():
        result = layer.project_mel(mel, positions)
    assert relative_error(result, expected.transpose(1, 2)) <= 1e-6
    assert relative_error(layer.project_mel(mel, positions), result) <= 1e-6
