"""Group normalisation beyond its case rows: any shape, hard data, bad arguments."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.nn import GroupNormAct
from septet.ops import group_norm_act

X = torch.linspace(-3, 3, 2 * 8 * 5 * 5).reshape(2, 8, 5, 5)
LAST = X.contiguous(memory_format=torch.channels_last)


@settings(deadline=None, max_examples=80)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 6),
    group_channels=st.integers(1, 40),
    spatial=st.lists(st.integers(1, 9), min_size=0, max_size=2),
    last=st.booleans(),
    activation=st.sampled_from(["identity", "silu", "mish"]),
    seed=st.integers(0, 99),
)
def test_any_shape(batch, groups, group_channels, spatial, last, activation, seed):
    torch.manual_seed(seed)
    channels = groups * group_channels
    x = torch.randn(batch, channels, *spatial, dtype=torch.float64)
    if last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, channels, dtype=torch.float64)
    actual = group_norm_act(x, groups, weight, bias, 1e-3, activation=activation)
    function = {"identity": lambda v: v, "silu": F.silu, "mish": F.mish}[activation]
    if group_channels * torch.Size(spatial).numel() == 1:  # torch refuses a group of one value
        expected = function(bias.reshape(-1, *[1] * len(spatial)).expand(x.shape))
    else:
        expected = function(F.group_norm(x, groups, weight, bias, 1e-3))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert actual.stride() == x.stride()


@settings(deadline=None, max_examples=40)
@given(
    # a single channel is of both layouts
    parts=st.tuples(st.integers(2, 70), st.integers(2, 70)),
    image=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rest_is_concatenation_bit_for_bit(parts, image, last, seed):
    torch.manual_seed(seed)
    layout = torch.channels_last if last else torch.contiguous_format
    x, rest = (torch.randn(2, part, *image).contiguous(memory_format=layout) for part in parts)
    channels = sum(parts)
    groups = max(g for g in (1, 2, 3, 5, 8, 16) if channels % g == 0)
    weight, bias = torch.randn(2, channels)
    together = torch.cat([x, rest], dim=1).contiguous(memory_format=layout)
    expected = group_norm_act(together, groups, weight, bias, activation="silu")
    actual = group_norm_act(x, groups, weight, bias, activation="silu", rest=rest)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("offset", [0.0, 100.0, 10_000.0])
def test_data_far_from_zero_keeps_its_variance(last, offset):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 32, 24, 24, generator=g, dtype=torch.float64).mul_(0.5).add_(offset)
    x = x.float()
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    exact = F.group_norm(x.double(), 8)
    error = (group_norm_act(x, 8).double() - exact).abs().max()
    # the normalised value is x * rstd - mean * rstd: an ulp of the larger is all that is lost
    assert error < 2e-6 + 4 * 2**-24 * offset


def test_constant_groups_are_only_shifted():
    y = group_norm_act(torch.full((1, 4, 6, 6), 7.0), 2, torch.ones(4), torch.full((4,), 0.25))
    torch.testing.assert_close(y, torch.full_like(y, 0.25), atol=1e-3, rtol=0)


@pytest.mark.parametrize("act_fn", [None, "silu", "swish", "mish", "gelu", "relu"])
@pytest.mark.parametrize("modulated", [False, True])
def test_module_is_torch_modules_in_a_row(act_fn, modulated):
    module = GroupNormAct(4, 8, 1e-5, act_fn).requires_grad_(False)
    scale_shift = torch.randn(2, 16) if modulated else None
    expected = F.group_norm(X, 4, module.weight, module.bias, 1e-5)
    if modulated:
        scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
        expected = expected * (1 + scale) + shift
    functions = {None: lambda v: v, "swish": F.silu}
    expected = functions.get(act_fn, getattr(F, act_fn or "silu", None))(expected)
    torch.testing.assert_close(module(X, scale_shift), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_groups": 3}, "num_groups must divide 8 channels, got 3"),
        ({"num_groups": 0}, "num_groups must divide 8 channels, got 0"),
        ({"input": torch.ones(8)}, r"input must be \[N, C, ...\], got \[8\]"),
        ({"input": X.int()}, "input must be float32, float64, float16 or bfloat16"),
        ({"weight": torch.ones(4)}, r"weight must hold one value for each of 8 channels, got"),
        ({"bias": torch.ones(8).double()}, "bias must be float32, got float64"),
        ({"eps": -1.0}, "eps must not be negative, got -1"),
        ({"activation": "tanh"}, "activation must be one of identity, silu, mish, got 'tanh'"),
        ({"scale_shift": torch.ones(2, 8)}, r"scale_shift must be contiguous \[2 or 1, 16\]"),
        (
            {"input": LAST, "rest": LAST[:1]},
            r"rest must be channels_last .*, got \[1, 8, 5, 5\], \[2, 8, 5, 5\]",
        ),
        ({"input": LAST, "rest": LAST.double()}, "rest must be float32, got float64"),
        ({"mask": torch.ones(2, 8, 5, 5)}, "mask must be contiguous, of the shape of input with"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^septet.group_norm_act: {message}"):
        group_norm_act(**{"input": X, "num_groups": 4, **arguments})


# --- CUDA sources, in the emulator ---------------------------------------------------------------


@pytest.mark.parametrize("shared", ["80", "2", "0"])
@pytest.mark.parametrize("seed", range(6))
def test_slabs_of_any_shape(seed, shared, emulated_ops, monkeypatch):
    """One pass, two where groups are too large for shared memory, packs or single elements."""
    monkeypatch.setenv("SEPTET_EMULATOR_SHARED", shared)
    draw = random.Random(seed)
    groups, width = draw.choice([1, 4, 6, 32]), draw.choice([1, 2, 3, 8, 10])
    shape = (draw.randint(1, 2), groups * width, draw.randint(1, 9), draw.randint(1, 40))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 3
    weight, bias = x.new_tensor([range(shape[1]), range(shape[1])]) / shape[1]
    mask = (x[:, :1] > 3).float().contiguous()
    for layout in (torch.contiguous_format, torch.channels_last):
        for dtype in (torch.float32, torch.float16):
            tensors = (t.to(dtype) for t in (x.contiguous(memory_format=layout), weight, bias))
            own, weights, biases = tensors
            options = {"activation": "silu", "mask": mask.to(dtype)}
            wide = (own.double(), groups, weights.double(), biases.double(), 1e-3)
            actual = group_norm_act(own, groups, weights, biases, 1e-3, **options)
            exact = F.silu(F.group_norm(*wide))
            error = (actual.double() - exact * mask).abs().max()
            assert error < (5e-6 if dtype == torch.float32 else 5e-3)
