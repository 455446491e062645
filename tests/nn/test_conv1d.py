"""The convolutions of sequences against torch's in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from septet.backend import use_backend
from septet.nn.conv1d import Conv1d, ConvTranspose1d
from septet.ops import use_convolution
from septet.testing.tolerances import relative_error

LAYERS = [
    # class, in, out, kernel, options
    (Conv1d, 20, 33, 1, {}),
    (Conv1d, 6, 1, 1, {"bias": False}),
    (Conv1d, 5, 16, 5, {"padding": 2}),
    (Conv1d, 16, 7, 3, {"padding": 3, "dilation": 3}),
    (Conv1d, 8, 8, 3, {"stride": 2}),
    (Conv1d, 8, 8, 3, {"padding": 1, "groups": 2}),
    (Conv1d, 8, 8, 3, {"padding": "same"}),
    (Conv1d, 8, 8, 3, {"padding": 1, "padding_mode": "reflect"}),
    (ConvTranspose1d, 12, 6, 4, {"stride": 2, "padding": 1}),
    (ConvTranspose1d, 6, 17, 16, {"stride": 8, "padding": 4, "bias": False}),
    (ConvTranspose1d, 6, 5, 11, {"stride": 5, "padding": 3}),
    (ConvTranspose1d, 6, 5, 3, {"stride": 3}),
    (ConvTranspose1d, 6, 5, 3, {"stride": 1, "padding": 1}),
    (ConvTranspose1d, 6, 5, 3, {"stride": 2, "padding": 1, "output_padding": 1}),
    (ConvTranspose1d, 6, 5, 4, {"stride": 2}),
    (ConvTranspose1d, 6, 4, 4, {"stride": 2, "padding": 1, "groups": 2}),
]


def tell(layer):
    kind, *sizes, options = layer
    return f"{kind.__name__}-{sizes}-{options}"


@pytest.mark.parametrize("layer", LAYERS, ids=tell)
@pytest.mark.parametrize("length", [3, 50])
def test_convolution(layer, length):
    kind, channels, width, kernel, options = layer
    torch.manual_seed(0)
    module = kind(channels, width, kernel, **options)
    x = torch.randn(2, channels, length)
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(x.double())
        ours = module(x)
        assert ours.shape == exact.shape
        assert relative_error(ours, exact) < 2e-6
        assert relative_error(module(x.transpose(1, 2).contiguous().transpose(1, 2)), exact) < 2e-6
        with use_convolution("torch"):
            assert relative_error(module(x), exact) < 2e-6
        with use_backend("eager"):
            assert relative_error(module(x), exact) < 2e-6


@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
def test_the_packed_copy_follows_the_weights(kind):
    module, x = kind(4, 4, 3, padding=1), torch.randn(1, 4, 8)
    with torch.no_grad():
        before = module(x) - module.bias[:, None]
        module.weight.mul_(2)
        assert relative_error(module(x) - module.bias[:, None], 2 * before) < 2e-6
        # new weights may get the address of old ones
        for scale in range(3, 8):
            module.weight = nn.Parameter(module.weight * scale / (scale - 1))
            assert relative_error(module(x) - module.bias[:, None], scale * before) < 5e-6
        twin = copy.deepcopy(module)
        assert set(twin.state_dict()) == {"weight", "bias"}
        twin.load_state_dict({"weight": torch.zeros(4, 4, 3), "bias": torch.ones(4)})
        assert twin(x).unique().tolist() == [1]


@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
def test_gradients_and_complaints_are_those_of_torch(kind):
    module = kind(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 8)
    stock = getattr(nn, kind.__name__)(4, 4, 3, padding=1)
    stock.load_state_dict(module.state_dict())
    for one in (module, stock):
        one(x).square().sum().backward()
    assert torch.equal(module.weight.grad, stock.weight.grad)
    with torch.no_grad():
        assert torch.equal(module(x[0]), stock(x[0]))
        with pytest.raises(RuntimeError, match="channels"):
            module(x[:, :3])
