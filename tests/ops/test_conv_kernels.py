"""Convolution beyond its case rows: any shape, accuracy of whole layers, bad arguments."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.ops import conv2d, pack_conv2d, packed_floats
from septet.testing.tolerances import relative_error

ALGORITHMS = ["direct", "winograd2", "winograd4"]


def channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def layer_weight(*shape: int) -> torch.Tensor:
    """Draw weights that keep the size of what passes a rectified layer (He et al. 2015)."""
    return torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.tuples(*(st.integers(1, 20) for _ in range(2)), *(st.integers(1, 11),) * 2),
    batch=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    upscale=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_any_direct_shape(sizes, batch, kernel, stride, dilation, upscale, seed):
    torch.manual_seed(seed)
    channels, width, *image = sizes
    padding = tuple(gap * taps // 2 for gap, taps in zip(dilation, kernel, strict=True))
    x, weight, bias = (
        channels_last(batch, channels, *image),
        torch.randn(width, channels, *kernel),
        None,
    )
    exact = F.conv2d(
        x.double().repeat_interleave(upscale, 2).repeat_interleave(upscale, 3),
        weight.double(),
        bias,
        stride,
        padding,
        dilation,
    )
    actual = conv2d(
        x,
        pack_conv2d(weight),
        stride=stride,
        padding=padding,
        dilation=dilation,
        upscale=upscale,
    )
    torch.testing.assert_close(actual.double(), exact, rtol=2e-6, atol=2e-5)
    assert actual.is_contiguous(memory_format=torch.channels_last)


@settings(deadline=None, max_examples=40)
@given(
    channels=st.integers(1, 40),
    width=st.integers(1, 40),
    image=st.tuples(st.integers(3, 14), st.integers(3, 14)),
    padding=st.integers(0, 2),
    algorithm=st.sampled_from(ALGORITHMS[1:]),
    seed=st.integers(0, 99),
)
def test_any_winograd_shape(channels, width, image, padding, algorithm, seed):
    torch.manual_seed(seed)
    x, weight = channels_last(2, channels, *image), layer_weight(width, channels, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=padding)
    actual = conv2d(x, pack_conv2d(weight), algorithm=algorithm, padding=(padding, padding))
    assert relative_error(actual, exact) < 3e-6


@settings(deadline=None, max_examples=30)
@given(
    parts=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    width=st.integers(1, 40),
    image=st.tuples(st.integers(3, 12), st.integers(3, 12)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    upscale=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_rest_is_concatenation_bit_for_bit(parts, width, image, kernel, stride, upscale, seed):
    torch.manual_seed(seed)
    x, rest = (channels_last(2, 16 * part, *image) for part in parts)
    weight = pack_conv2d(torch.randn(width, 16 * sum(parts), kernel, kernel))
    options = {"stride": (stride, stride), "padding": (1, 1), "upscale": upscale}
    expected = conv2d(torch.cat([x, rest], dim=1), weight, **options)
    assert torch.equal(conv2d(x, weight, rest=rest, **options), expected)


def rms_error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    return float((actual.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("shape", [(128, 16, 128), (256, 16, 64), (512, 8, 32), (1280, 8, 16)])
@pytest.mark.parametrize("activation", [lambda x: x, F.silu], ids=["normal", "silu"])
def test_winograd_stays_within_three_times_the_error_of_torch(shape, activation):
    """The gate that lets an algorithm serve a layer (docs/numerics.md)."""
    torch.manual_seed(0)
    channels, size, width = shape
    x, weight = (
        activation(channels_last(1, channels, size, size)),
        layer_weight(width, channels, 3, 3),
    )
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    allowed = 3 * rms_error(F.conv2d(x, weight, padding=1), exact)
    errors = {
        name: rms_error(conv2d(x, pack_conv2d(weight), algorithm=name, padding=(1, 1)), exact)
        for name in ALGORITHMS
    }
    assert max(errors.values()) < allowed, (errors, allowed)
    # the transforms of 2x2 tiles are sums alone, those of 4x4 tiles cost a digit at most
    assert errors["winograd2"] < 2 * errors["direct"]
    assert errors["winograd4"] < 5 * errors["direct"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_sample_does_not_depend_on_its_batch(algorithm):
    torch.manual_seed(0)
    x, weight = channels_last(5, 24, 9, 10), pack_conv2d(torch.randn(20, 24, 3, 3))
    options = {"algorithm": algorithm, "padding": (1, 1)}
    together = conv2d(x, weight, **options)
    for i in range(5):
        assert torch.equal(conv2d(x[i : i + 1], weight, **options)[0], together[i])


def test_not_a_number_stays_in_its_sample():
    x = channels_last(3, 16, 8, 8)
    x[1, 3, 4, 4] = torch.nan
    weight = pack_conv2d(torch.randn(16, 16, 3, 3))
    y = conv2d(x, weight, algorithm="winograd4", padding=(1, 1))
    assert y.isfinite().flatten(1).all(1).tolist() == [True, False, True]


def test_packed_weights_are_filled_up_to_multiples_of_16():
    weight = torch.ones(20, 32, 3, 3)
    assert packed_floats(weight.shape) == pack_conv2d(weight).values.numel() == 32 * 9 * 32
    assert packed_floats((16, 3, 3, 3)) == 16 * 32


X, WEIGHT = torch.ones(2, 4, 6, 6), torch.ones(8, 4, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": torch.ones(4, 6, 6)}, r"input must be \[B, C, H, W\], got \[4, 6, 6\]"),
        ({"input": torch.ones(2, 5, 6, 6)}, "input must have the 4 channels of weight, got 5"),
        ({"input": X.double()}, "input must be float32, got float64"),
        ({"input": X[:, :, :2]}, "input must have a height of at least 3 with its padding, got 2"),
        ({"stride": (0, 1)}, "kernel_size, stride and dilation must be positive"),
        ({"padding": (-1, 0)}, "kernel_size, stride and dilation must be positive and padding not"),
        (
            {"input": X[:, :2], "rest": X[:, 2:]},
            "rest needs the direct algorithm and multiples of 16 channels, got 2 and 2",
        ),
        (
            {"input": X[:, :2], "rest": X[:, 2:, 1:]},
            "rest must match input in shape but for the channels, and in layout, got",
        ),
        ({"upscale": 3}, "upscale must be 1 or 2, got 3"),
        ({"bias": torch.ones(4)}, "bias must hold one value for each of 8 channels, got"),
        ({"shift": torch.ones(3, 8)}, r"shift must be contiguous \[2 or 1, 8\], got \[3, 8\]"),
        ({"residual": torch.ones(2, 8, 6, 6)}, "residual must match out in shape and layout, got"),
        (
            {"algorithm": "winograd4", "dilation": (2, 2)},
            "Winograd's algorithm needs stride 1 and dilation 1",
        ),
        (
            {"algorithm": "winograd2", "weight": pack_conv2d(WEIGHT[..., :2])},
            "Winograd's algorithm needs a kernel of 3x3, got 3x2",
        ),
        (
            {"algorithm": "fft"},
            "algorithm must be one of direct, winograd2, winograd4, got 'fft'",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^septet.conv2d: {message}"):
        conv2d(**{"input": X, "weight": pack_conv2d(WEIGHT), **arguments})


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (WEIGHT[0], "weight must be .*, got .4, 3, 3."),
        (WEIGHT.double(), "weight must be float32, got float64"),
        (WEIGHT[:0], "weight must be contiguous"),
    ],
)
def test_weights_that_cannot_be_packed(weight, message):
    with pytest.raises(ValueError, match=f"^septet.conv2d_pack: {message}"):
        pack_conv2d(weight)
