"""The packed convolution against ``torch.nn.functional.conv2d``."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from septet.backend import use_backend
from septet.nn import Conv2d, conv
from septet.ops import use_convolution
from septet.testing.tolerances import relative_error

GEOMETRIES = [
    # in, out, kernel, stride, padding, height, batch
    (3, 16, 3, 1, 1, 8, 1),
    (16, 8, 3, 1, 1, 32, 2),
    (8, 8, 3, 2, 0, 9, 2),
    (8, 8, 3, 2, 1, 8, 1),
    (16, 5, 1, 1, 0, 7, 3),
]


@pytest.fixture(autouse=True, params=["auto", "direct", "torch"])
def _no_gradients(request):
    with torch.no_grad(), use_convolution(request.param):
        yield


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("extras", [(), ("residual",), ("shift",), ("residual", "shift")])
@pytest.mark.parametrize("rows", [1, None])
def test_packed_convolution(geometry, memory_format, extras, rows):
    channels, width, kernel, stride, padding, height, batch = geometry
    torch.manual_seed(0)
    module = Conv2d(channels, width, kernel, stride=stride, padding=padding)
    x = torch.randn(batch, channels, height, height).contiguous(memory_format=memory_format)
    exact = F.conv2d(x.double(), module.weight.double(), module.bias.double(), stride, padding)
    options = {}
    if "residual" in extras:
        options["residual"] = torch.randn(exact.shape)
        exact = exact + options["residual"]
    if "shift" in extras:
        options["shift"] = torch.randn(rows or batch, width)
        exact = exact + options["shift"][:, :, None, None]
    before = {name: value.clone() for name, value in options.items()}
    assert relative_error(module(x, **options), exact) < 2e-6
    assert all(torch.equal(options[name], before[name]) for name in options)
    with use_backend("eager"):
        assert relative_error(module(x, **options), exact) < 2e-6


def test_the_packed_copy_follows_the_weights():
    module = Conv2d(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 8, 8)
    module(x)
    module.weight.mul_(2)
    assert relative_error(module(x), F.conv2d(x, module.weight, module.bias, padding=1)) < 2e-6
    module.load_state_dict({"weight": torch.ones(4, 4, 3, 3), "bias": torch.zeros(4)})
    assert relative_error(module(x), F.conv2d(x, torch.ones(4, 4, 3, 3), padding=1)) < 2e-6


def test_state_and_copies_hold_the_weights_alone():
    module = Conv2d(4, 4, 3, padding=1)
    module(torch.randn(1, 4, 8, 8))
    assert set(module.state_dict()) == {"weight", "bias"}
    twin = copy.deepcopy(module)
    twin.weight.zero_()
    twin.bias.zero_()
    assert twin(torch.randn(1, 4, 8, 8)).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_take_the_ordinary_way(dtype):
    module = Conv2d(4, 4, 3, padding=1).to(dtype)
    x = torch.randn(1, 4, 8, 8, dtype=dtype)
    assert torch.equal(module(x), F.conv2d(x, module.weight, module.bias, padding=1))


def test_weights_of_another_layer_at_the_same_address_are_packed_anew():
    module = Conv2d(16, 16, 3, padding=1)
    x = torch.randn(1, 16, 20, 20)
    for value in (1.0, 2.0):
        module.weight = torch.nn.Parameter(torch.full((16, 16, 3, 3), value))
        module(x)
        exact = F.conv2d(x.double(), module.weight.double(), module.bias.double(), padding=1)
        assert relative_error(module(x), exact) < 4e-6


@pytest.mark.parametrize("choice", ["auto", "torch"])
def test_weights_in_memory_that_others_left_are_packed_anew(choice):
    module = Conv2d(64, 64, 3, padding=1)
    x = torch.randn(1, 64, 8, 8)
    with use_convolution(choice):
        for value in range(8):
            module.weight = None
            module.weight = torch.nn.Parameter(torch.full((64, 64, 3, 3), float(value)))
            exact = F.conv2d(x.double(), module.weight.double(), module.bias.double(), padding=1)
            assert relative_error(module(x), exact) < 4e-6


def test_without_onednn_the_result_is_the_same(monkeypatch):
    module = Conv2d(4, 4, 3, padding=1)
    x, residual = torch.randn(2, 1, 4, 8, 8)
    packed = module(x, residual=residual)
    monkeypatch.setattr(conv, "HAS_ONEDNN", False)
    assert relative_error(module(x, residual=residual), packed) < 2e-6


def test_a_missing_operator_is_noticed(monkeypatch):
    assert conv._has_onednn() == torch.backends.mkldnn.is_available()
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    assert not conv._has_onednn()


def test_gradients_flow():
    module = Conv2d(4, 4, 3, padding=1)
    with torch.enable_grad():
        module(torch.randn(1, 4, 8, 8)).sum().backward()
    assert module.weight.grad is not None
