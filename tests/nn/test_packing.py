"""The memory that packed weights take, and how long they are valid."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from septet.models import UNet2DModel
from septet.nn import Conv2d, packing
from septet.nn.packing import packing_limit
from septet.ops import use_convolution


@given(st.integers(0, 10**9), st.none() | st.integers(0, 10**12), st.none() | st.floats(0, 9))
def test_the_limit(parameters, available, factor):
    limit = packing_limit(parameters, available, factor)
    assert limit <= (packing.PACK_BUDGET if factor is None else factor) * parameters
    assert available is None or 4 * limit <= available / 2
    assert packing_limit(parameters, 10**12, 1.0) == parameters


@pytest.mark.parametrize("text", ["many", "-1", "nan"])
def test_a_budget_that_is_no_number(text):
    with pytest.raises(ValueError, match="SEPTET_PACK_BUDGET must be a number of at least 0, got"):
        packing._checked(text)


def _network():
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
    )
    return network.eval().requires_grad_(False)


def _packed(network):
    return sum(
        copied.values.numel()
        for module in network.modules()
        if isinstance(module, Conv2d)
        for name, (_, copied) in (module._copies or {}).items()
        if name == "packed"
    )


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.2])
def test_a_network_keeps_its_budget(monkeypatch, factor):
    monkeypatch.setattr(packing, "PACK_BUDGET", factor)
    network, x = _network(), torch.randn(2, 3, 16, 16)
    with use_convolution("auto"):
        result = network(x, 10).sample
        assert torch.equal(network(x, 10).sample, result)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert _packed(network) <= factor * parameters
    assert (_packed(network) > 0) == (factor > 1)
    if factor < 1:
        assert not any(getattr(module, "_copies", None) for module in network.modules())
    with use_convolution("torch"):
        torch.testing.assert_close(network(x, 10).sample, result, rtol=1e-4, atol=1e-4)


def test_all_sizes_and_algorithms_share_one_copy():
    network = _network()
    with use_convolution("auto"):
        network(torch.randn(1, 3, 16, 16), 10)
    before = _packed(network)
    for size in (4, 8, 16):
        for choice in ("direct", "winograd"):
            with use_convolution(choice):
                network(torch.randn(1, 3, size, size), 10)
    assert _packed(network) == before > 0


def test_copies_and_moves_forget_the_packed_weights():
    network, x = _network(), torch.randn(1, 3, 16, 16)
    with use_convolution("auto"):
        result = network(x, 10).sample
        assert _packed(network) > 0
        twin = copy.deepcopy(network)
        assert _packed(twin) == 0
        assert torch.equal(twin(x, 10).sample, result)
        network.double()
        assert _packed(network) == 0
        assert network(x.double(), 10).sample.dtype == torch.float64
