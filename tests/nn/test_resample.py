"""Doubling the resolution: the folded convolution against its definition."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from septet.backend import use_backend
from septet.nn import Upsample2D, resample
from septet.ops import use_convolution
from septet.testing.tolerances import relative_error


@pytest.fixture(autouse=True, params=["auto", "torch"])
def _no_gradients(request):
    torch.manual_seed(0)
    with torch.no_grad(), use_convolution(request.param):
        yield


def exact(layer: Upsample2D, sample: Tensor) -> Tensor:
    doubled = sample.double().repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return F.conv2d(doubled, layer.conv.weight.double(), layer.conv.bias.double(), padding=1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 5), (3, 7, 4), (1, 16, 16)])
@pytest.mark.parametrize("channels", [1, 5, 32])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_folded(shape, channels, memory_format):
    layer = Upsample2D(channels)
    sample = torch.randn(shape[0], channels, *shape[1:]).contiguous(memory_format=memory_format)
    for backend in ("fused", "eager"):
        for implementation in ("auto", "torch"):
            with use_backend(backend), use_convolution(implementation):
                assert relative_error(layer(sample), exact(layer, sample)) < 4e-6
    assert bool(layer._copies) == resample._CAN_TRANSPOSE


def test_the_folded_copy_follows_the_weights():
    layer = Upsample2D(4)
    sample = torch.randn(1, 4, 8, 8)
    layer(sample)
    layer.conv.weight.mul_(2)
    assert relative_error(layer(sample), exact(layer, sample)) < 4e-6
    layer.conv.bias.add_(3)
    assert relative_error(layer(sample), exact(layer, sample)) < 4e-6
    layer.load_state_dict({"conv.weight": torch.ones(4, 4, 3, 3), "conv.bias": torch.zeros(4)})
    assert relative_error(layer(sample), exact(layer, sample)) < 4e-6


def test_weights_in_memory_that_others_left_are_folded_anew():
    layer = Upsample2D(64)
    sample = torch.randn(1, 64, 8, 8)
    for value in range(8):
        layer.conv.weight = None
        layer.conv.weight = torch.nn.Parameter(torch.full((64, 64, 3, 3), float(value)))
        assert relative_error(layer(sample), exact(layer, sample)) < 4e-6


def test_state_and_copies_hold_the_weights_alone():
    layer = Upsample2D(4)
    sample = torch.randn(1, 4, 8, 8)
    layer(sample)
    assert set(layer.state_dict()) == {"conv.weight", "conv.bias"}
    twin = copy.deepcopy(layer)
    twin.conv.weight.zero_()
    twin.conv.bias.zero_()
    assert twin(sample).abs().max() == 0
    with torch.inference_mode():
        frozen = copy.deepcopy(layer)
        assert torch.equal(frozen(sample), layer(sample))


def test_what_hangs_on_the_convolution_is_not_bypassed():
    layer = Upsample2D(4)
    sample = torch.randn(1, 4, 8, 8)
    calls = []
    handle = layer.conv.register_forward_hook(lambda *_: calls.append(1))
    layer(sample)
    handle.remove()
    assert calls == [1]
    layer.conv = torch.nn.Conv2d(4, 2, 1)
    assert layer(sample).shape == (1, 2, 16, 16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_take_the_ordinary_way(dtype):
    layer = Upsample2D(4).to(dtype)
    sample = torch.randn(1, 4, 8, 8, dtype=dtype)
    assert torch.equal(layer(sample), layer.conv(F.interpolate(sample, scale_factor=2.0)))


def test_a_missing_operator_is_noticed(monkeypatch):
    assert resample._can_transpose() == torch.backends.mkldnn.is_available()
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_transpose_pointwise", None)
    assert not resample._can_transpose()


def test_gradients_flow():
    layer = Upsample2D(4)
    with torch.enable_grad():
        layer(torch.randn(1, 4, 8, 8)).sum().backward()
    assert layer.conv.weight.grad is not None
