"""The memory that packed weights may take."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_networks
from septet.models import AutoencoderKL, GlideTextToImageUNet, UNet2DModel
from septet.nn import Conv2d, packing
from septet.nn.conv import winograd_pixels
from septet.nn.packing import PackingBudget, packing_limit
from septet.ops import packed_floats, use_convolution

SMALL, LARGE = (32, 32, 3, 3), (64, 64, 3, 3)


def floats(*grants):
    return sum(packed_floats(shape, algorithm) for shape, algorithm in grants)


def test_tiles_of_2x2_go_first_and_to_layers_of_many_pixels():
    shapes, pixels = [LARGE, SMALL, LARGE], [1.0, 4.0, 1.0]

    def answers(*algorithms):
        limit = floats(*zip(shapes, algorithms, strict=True))
        budget = PackingBudget(shapes, pixels, limit)
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
    tight = PackingBudget([SMALL], [1.0], floats((SMALL, "winograd4")))
    both = floats((SMALL, "winograd4"), (SMALL, "winograd2"))
    roomy = PackingBudget([SMALL], [1.0], both)
    for budget in (tight, roomy):
        assert [budget.grant(0, "winograd4") for _ in range(2)] == ["winograd4"] * 2
    assert tight.grant(0, "winograd2") == tight.grant(0, "direct") == "winograd4"
    assert roomy.grant(0, "winograd2") == "winograd2"
    assert roomy.grant(0, "direct") == "winograd4"


def _unet(**options):
    network = UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        **options,
    )
    return network, lambda: network(torch.randn(1, 3, 16, 16), 10)


def _autoencoder():
    network = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    return network, lambda: network(torch.randn(1, 3, 16, 16))


def _glide():
    network = GlideTextToImageUNet(**tiny_networks.GLIDE)
    tokens = torch.zeros(1, 16, dtype=torch.long)
    return network, lambda: network(torch.randn(1, 3, 8, 8), 10, tokens, tokens == 0)


@pytest.mark.parametrize(
    "build",
    [
        _unet,
        functools.partial(_unet, downsample_type="resnet", upsample_type="resnet"),
        _autoencoder,
        _glide,
    ],
)
def test_pixels_are_counted_on_the_way_through_a_network(build):
    network, run = build()
    seen = []

    def look(layer, inputs, result):
        seen.append((layer, result.shape[2] * result.shape[3]))

    expected = winograd_pixels(network)
    layers = {layer for layer in network.modules() if type(layer) is Conv2d}
    assert expected.keys() == layers
    for layer in layers:
        layer.register_forward_hook(look)
    run()
    per_unit = {count / expected[layer] for layer, count in seen if expected[layer]}
    assert len(per_unit) == 1
    ordinary = {layer for layer in layers if (layer.kernel_size, layer.stride) == ((3, 3), (1, 1))}
    assert {layer for layer, _ in seen if expected[layer]} == ordinary


def test_large_networks_take_little_more_than_their_smallest_packing():
    shape = (1024, 1024, 3, 3)
    count = packed_floats(shape, "direct")
    assert packing_limit([shape] * 50, 50 * count, None) == int(1.9 * 50 * count)
    assert 60 * count <= packing_limit([shape] * 60, 60 * count, None) <= 1.06 * 60 * count
    assert packing_limit([shape] * 60, 60 * count, None, factor=3.0) == 180 * count


def test_small_networks_may_take_somewhat_more():
    shape = (256, 256, 3, 3)
    count = packed_floats(shape, "direct")
    free = packing.FREE_BYTES // 4
    limits = [packing_limit([shape] * n, n * count, None) for n in (13, 100, 200)]
    assert limits == [int(2.5 * 13 * count), free, int(1.9 * 200 * count)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([SMALL, LARGE, (128, 64, 3, 3), (64, 64, 1, 1)]), st.floats(0, 9)
        ),
        min_size=1,
    ),
    st.integers(0, 10**7),
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["direct", "winograd2", "winograd4"]))),
)
def test_what_is_granted_never_exceeds_the_limit(layers, limit, requests):
    shapes = [shape for shape, _ in layers]
    pixels = [count if shape[2:] == (3, 3) else 0.0 for shape, count in layers]
    budget = PackingBudget(shapes, pixels, limit)
    packs = set()
    for place, algorithm in requests:
        key = place % len(shapes)
        if pixels[key] == 0:
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
    budget = PackingBudget([SMALL, LARGE], [1.0, 1.0], 1000)
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
