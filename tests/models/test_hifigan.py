"""HiFi-GAN against its authors' generator."""

from __future__ import annotations

import pytest
import torch

import stored
from septet.checkpoints.weight_norm import fold_weight_norm
from septet.models import HiFiGANModel
from septet.testing.tolerances import relative_error


def small(**changes):
    return HiFiGANModel(**{**stored.Oracle("hifigan").constructor, **changes})


def test_audio():
    oracle = stored.Oracle("hifigan")
    model = small().eval().requires_grad_(False)
    model.load_state_dict(fold_weight_norm(oracle.weights()))
    audio = model(oracle.tensors["input.mel"])
    assert audio.shape == (2, 13 * model.hop_length)
    # the authors' own differs by 1e-6 with another convolution
    assert relative_error(audio[:, None], oracle.tensors["output.audio"]) <= 1e-5
    assert relative_error(audio[:, None], oracle.tensors["output.audio_removed"]) <= 1e-5


def test_published_keys():
    layout = stored.layout("hifigan_v1_generator")
    with torch.device("meta"):
        model = HiFiGANModel()
        normed = {key: torch.empty(shape) for key, shape in layout["keys"].items()}
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == layout["keys_without_weight_norm"]
    folded = fold_weight_norm(normed)
    assert {key: list(tensor.shape) for key, tensor in folded.items()} == shapes
    assert sum(p.numel() for p in model.parameters()) == 13_926_017
    assert model.hop_length == 256


def test_plain_blocks():
    # type "2": x + conv(leaky_relu(x)) per dilation, written out in float64
    torch.manual_seed(0)
    model = small(resblock="2", resblock_dilation_sizes=((1, 3), (1, 3))).double().eval()
    block = model.resblocks[0]
    sample = torch.randn(1, 8, 20, dtype=torch.float64)
    expected = sample
    for dilation, conv in zip((1, 3), block.convs, strict=True):
        active = torch.where(expected > 0, expected, 0.1 * expected)
        change = torch.nn.functional.conv1d(
            active, conv.weight, conv.bias, padding=dilation, dilation=dilation
        )
        expected = expected + change
    assert relative_error(block(sample), expected) <= 1e-12


def test_trains():
    model = small()
    model(torch.randn(1, 80, 5)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("shape", [(80, 5), (1, 79, 5), (1, 80, 0)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"mel must have shape \[B, 80, T\]"):
        small()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resblock": "3"}, "resblock"),
        ({"upsample_kernel_sizes": [8]}, "upsample_kernel_sizes"),
        ({"upsample_kernel_sizes": [9, 4]}, "even number"),
        ({"upsample_initial_channel": 18}, "multiple of 4"),
        ({"resblock_kernel_sizes": [3, 4]}, "must be odd"),
        ({"resblock_dilation_sizes": [[1, 3]]}, "resblock_dilation_sizes"),
        ({"sampling_rate": 0}, "sampling_rate"),
    ],
)
def test_odd_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)
