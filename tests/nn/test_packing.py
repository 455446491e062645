"""The memory that packed weights may take."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from septet.models import UNet2DModel
from septet.nn import Conv2d, packing
from septet.nn.packing import PackingBudget, packing_limit
from septet.ops import packed_floats, use_convolution

SMALL, LARGE = (32, 32, 3, 3), (64, 64, 3, 3)


def floats(*grants):
    return sum(packed_floats(shape, algorithm) for shape, algorithm in grants)


def test_tiles_of_2x2_go_first_and_to_layers_of_few_channels():
    shapes = [LARGE, SMALL, LARGE]

    def answers(*algorithms):
        limit = floats(*zip(shapes, algorithms, strict=True))
        budget = PackingBudget(shapes, limit)
        # whoever asks first
        last = budget.grant(2, "winograd4")
        return budget.grant(0, "winograd4"), budget.grant(1, "winograd4"), last

    for expected in (
        ("direct", "direct", "direct"),
        ("direct", "winograd2", "direct"),
        ("winograd2", "winograd2", "direct"),
        ("winograd2", "winograd2", "winograd2"),
        ("winograd2", "winograd4", "winograd2"),
        ("winograd4", "winograd4", "winograd4"),
    ):
        assert answers(*expected) == expected


def test_an_answer_is_kept_and_a_second_algorithm_is_granted_where_there_is_room():
    tight = PackingBudget([SMALL], floats((SMALL, "winograd4")))
    roomy = PackingBudget([SMALL], floats((SMALL, "winograd4"), (SMALL, "winograd2")))
    for budget in (tight, roomy):
        assert [budget.grant(0, "winograd4") for _ in range(2)] == ["winograd4"] * 2
    assert tight.grant(0, "winograd2") == tight.grant(0, "direct") == "winograd4"
    assert roomy.grant(0, "winograd2") == "winograd2"
    assert roomy.grant(0, "direct") == "winograd4"


def test_large_networks_take_little_more_than_their_smallest_packing():
    shape = (1024, 1024, 3, 3)
    count = packed_floats(shape, "direct")
    assert packing_limit([shape], count, None) == int(2.5 * count)
    assert packing_limit([shape] * 40, 40 * count, None) <= 1.15 * 40 * count
    assert packing_limit([shape] * 40, 40 * count, None, factor=3.0) == 120 * count


@given(
    st.lists(st.sampled_from([SMALL, LARGE, (128, 64, 3, 3), (64, 64, 1, 1)]), min_size=1),
    st.integers(0, 10**7),
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["direct", "winograd2", "winograd4"]))),
)
def test_what_is_granted_never_exceeds_the_limit(shapes, limit, requests):
    budget = PackingBudget(shapes, limit)
    packs = set()
    for place, algorithm in requests:
        key = place % len(shapes)
        if shapes[key][2:] != (3, 3):
            algorithm = "direct"
        granted = budget.grant(key, algorithm)
        if granted is not None:
            packs.add((key, granted))
    assert floats(*((shapes[key], granted) for key, granted in packs)) <= limit


@given(st.integers(0, 10**9), st.integers(0, 10**12), st.none() | st.floats(0, 9))
def test_packing_takes_at_most_half_of_the_free_memory(parameters, available, factor):
    limit = packing_limit([SMALL], parameters, available, factor)
    assert 4 * limit <= available / 2


def test_without_room_for_the_smallest_packing_nothing_is_packed():
    budget = PackingBudget([SMALL, LARGE], 1000)
    assert budget.grant(0, "winograd4") is None
    assert budget.grant(1, "direct") is None


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
    packs = [
        pack.values.numel()
        for module in network.modules()
        if isinstance(module, Conv2d)
        for pack in (module._packs or {}).values()
        if pack is not None
    ]
    return sum(packs)


@pytest.mark.parametrize("factor", [0.0, 1.2, 2.0, 2.5])
def test_a_network_keeps_its_budget(monkeypatch, factor):
    monkeypatch.setattr(packing.packing_limit, "__defaults__", (factor,))
    network, x = _network(), torch.randn(2, 3, 16, 16)
    with use_convolution("auto"):
        result = network(x, 10).sample
        assert torch.equal(network(x, 10).sample, result)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert _packed(network) <= factor * parameters
    assert (_packed(network) > 0) == (factor > 1)
    with use_convolution("torch"):
        torch.testing.assert_close(network(x, 10).sample, result, rtol=1e-4, atol=1e-4)


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
