"""The building blocks of the image networks, each against its definition."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from septet.nn import (
    ACTIVATIONS,
    Downsample2D,
    GroupNormAct,
    ResnetBlock2D,
    ResnetOptions,
    SpatialAttention,
    Upsample2D,
    activation,
    sinusoidal_embedding,
)
from septet.nn.transformer import FeedForward
from septet.ops import use_convolution
from septet.testing.tolerances import relative_error

OPTIONS = ResnetOptions(temb_channels=6, groups=2, eps=1e-5, act_fn="silu")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("act_fn", [None, *ACTIVATIONS])
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_group_norm_act(act_fn: str | None, rows: int) -> None:
    norm = GroupNormAct(4, 8, 1e-3, act_fn).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    sample = torch.randn(3, 8, 5, 7, dtype=torch.float64)
    scale_shift = torch.randn(rows, 16, dtype=torch.float64) if rows else None
    groups = sample.reshape(3, 4, -1)
    mean = groups.mean(-1, keepdim=True)
    variance = groups.var(-1, keepdim=True, correction=0)
    expected = ((groups - mean) / torch.sqrt(variance + 1e-3)).reshape(sample.shape)
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    if scale_shift is not None:
        scale, shift = scale_shift[:, :8, None, None], scale_shift[:, 8:, None, None]
        expected = expected * (1 + scale) + shift
    if act_fn is not None:
        expected = activation(act_fn)(expected)
    torch.testing.assert_close(norm(sample, scale_shift), expected)


def test_group_norm_act_on_sequences() -> None:
    norm = GroupNormAct(2, 4, 1e-5, "silu")
    sample, scale_shift = torch.randn(2, 4, 9), torch.randn(1, 8)
    expected = norm(sample[..., None], scale_shift)[..., 0]
    torch.testing.assert_close(norm(sample, scale_shift), expected)
    assert "act_fn=silu" in repr(norm)
    assert norm.state_dict().keys() == {"weight", "bias"}


def test_activation_names() -> None:
    points = torch.tensor([-1.0, 0.0, 2.0])
    torch.testing.assert_close(activation("SiLU")(points), points * torch.sigmoid(points))
    torch.testing.assert_close(activation("swish")(points), points * torch.sigmoid(points))
    gelu = points * 0.5 * (1 + torch.erf(points / math.sqrt(2)))
    torch.testing.assert_close(activation("gelu")(points), gelu)
    with pytest.raises(ValueError, match=r"act_fn must be one of .*, got 'tanh'"):
        activation("tanh")


@pytest.mark.parametrize("dim", [6, 7, 128])
@pytest.mark.parametrize("freq_shift", [0, 1])
@pytest.mark.parametrize("flip", [False, True])
def test_sinusoidal_embedding(dim: int, freq_shift: int, flip: bool) -> None:
    timesteps = torch.tensor([0.0, 1.0, 17.5, 999.0])
    result = sinusoidal_embedding(timesteps, dim, flip_sin_to_cos=flip, freq_shift=freq_shift)
    half = dim // 2
    for row, timestep in zip(result, timesteps.tolist(), strict=True):
        angles = [timestep * 10000 ** (-i / (half - freq_shift)) for i in range(half)]
        parts = [[math.sin(angle) for angle in angles], [math.cos(angle) for angle in angles]]
        columns = [*chain(*(parts[::-1] if flip else parts)), *[0.0] * (dim % 2)]
        expected = torch.tensor(columns)
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=0)


def test_downsample_pads_right_and_bottom() -> None:
    sample = torch.randn(2, 3, 6, 4)
    layer = Downsample2D(3, padding=0)
    padded = torch.zeros(2, 3, 7, 5)
    padded[:, :, :6, :4] = sample
    expected = F.conv2d(padded, layer.conv.weight, layer.conv.bias, stride=2)
    assert torch.equal(layer(sample), expected)
    assert layer(sample).shape == Downsample2D(3)(sample).shape == (2, 3, 3, 2)


def test_upsample_repeats_pixels() -> None:
    layer = Upsample2D(3)
    sample = torch.randn(2, 3, 2, 3)
    doubled = sample.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(layer(sample), layer.conv(doubled))


@pytest.mark.parametrize("width", [4, 6])
@pytest.mark.parametrize("choice", ["auto", "direct", "torch"])
def test_resnet_block_doubles_both_branches(width: int, choice: str) -> None:
    block = ResnetBlock2D(4, width, OPTIONS, resample="up").requires_grad_(False)
    sample, time = torch.randn(2, 4, 4, 6), torch.randn(1, width)

    def double(image: torch.Tensor) -> torch.Tensor:
        return image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    shortcut = block.conv_shortcut or nn.Identity()
    hidden = block.conv1(double(block.norm1(sample))) + time[:, :, None, None]
    expected = block.conv2(block.norm2(hidden)) + shortcut(double(sample))
    with use_convolution(choice):
        torch.testing.assert_close(block(sample, time), expected, atol=1e-5, rtol=1e-5)


def test_resnet_block_resamples_both_branches() -> None:
    up = ResnetBlock2D(4, 6, OPTIONS, resample="up")
    down = ResnetBlock2D(4, 6, OPTIONS, resample="down")
    sample, time = torch.randn(2, 4, 4, 6), torch.randn(1, 6)
    assert up(sample, time).shape == (2, 6, 8, 12)
    assert down(sample, time).shape == (2, 6, 2, 3)
    nn.init.zeros_(down.conv2.weight)
    nn.init.zeros_(down.conv2.bias)
    assert down.conv_shortcut is not None
    expected = down.conv_shortcut(F.avg_pool2d(sample, 2))
    torch.testing.assert_close(down(sample, time), expected)


@pytest.mark.parametrize(
    ("parts", "width"), [((32, 16), 16), ((24, 24), 16), ((8, 8), 16)], ids=str
)
@pytest.mark.parametrize("choice", ["auto", "direct", "torch"])
def test_resnet_block_reads_a_state_beside_the_sample(
    parts: tuple[int, int], width: int, choice: str
) -> None:
    options = ResnetOptions(temb_channels=4, groups=4, eps=1e-5, act_fn="silu")
    block = ResnetBlock2D(sum(parts), width, options).requires_grad_(False)
    sample, state = (
        torch.randn(2, part, 6, 6).contiguous(memory_format=torch.channels_last) for part in parts
    )
    time = torch.randn(1, width)
    with use_convolution(choice):
        together = block(torch.cat([sample, state], dim=1), time)
        assert torch.equal(block(sample, time, state), together)


def test_attention_against_its_definition() -> None:
    layer = SpatialAttention(8, 4, groups=2, eps=1e-5, output_scale_factor=2.0).double()
    sample = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    assert layer.group_norm is not None
    pixels = layer.group_norm(sample).reshape(2, 8, 15).transpose(1, 2)
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        query, key, value = (to(pixels)[..., part] for to in (layer.to_q, layer.to_k, layer.to_v))
        weights = (query @ key.transpose(1, 2) / 2.0).softmax(dim=-1)
        heads.append(weights @ value)
    output = layer.to_out[0](torch.cat(heads, dim=-1))
    expected = (sample + output.transpose(1, 2).reshape(sample.shape)) / 2
    torch.testing.assert_close(layer(sample), expected)


def test_a_feed_forward_of_many_tokens_is_that_of_each() -> None:
    layer = FeedForward(8)
    hidden, residual = torch.randn(2, 3, 700, 8)
    value, gate = layer.net[0].proj(hidden).chunk(2, dim=-1)
    expected = layer.net[2](value * F.gelu(gate)) + residual
    assert relative_error(layer(hidden, residual), expected) < 1e-6
    with torch.no_grad():
        assert relative_error(layer(hidden, residual), expected) < 1e-6
        assert layer(hidden[:0], residual[:0]).shape == (0, 700, 8)
