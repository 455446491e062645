"""A layer of DiffWave beyond its case rows: any shape, hard data, bad arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.ops import wavenet_layer
from septet.testing.cases.wavenet import layer_arguments


def _doubled(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value.double() for name, value in arguments.items()}


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 3),
    positions=st.integers(1, 150),
    channels=st.integers(1, 70),
    skip_channels=st.integers(1, 40),
    dilation=st.one_of(st.integers(1, 40), st.integers(1, 10**12)),
    mask=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape(batch, positions, channels, skip_channels, dilation, mask, seed):
    shape = (batch, positions, channels)
    step = 1 + seed % 2 * (batch - 1)
    arguments = layer_arguments(seed, shape, skip_channels, torch.float32, step=step, mask=mask)
    exact = _by_positions(_doubled(arguments), dilation)
    for actual, expected in zip(wavenet_layer(**arguments, dilation=dilation), exact, strict=True):
        torch.testing.assert_close(actual, expected.float())


def _by_positions(a, dilation):
    """Compute the layer from its definition, one tap after the other."""
    positions = a["input"].shape[1]
    shifted = a["input"] + a["step"][:, None]
    if "mask" in a:
        shifted = shifted * a["mask"][:, :, None]
    total = a["bias"] + a["mel"]
    for tap, distance in enumerate((-dilation, 0, dilation)):
        at = torch.arange(positions) + distance
        inside = (at >= 0) & (at < positions)
        moved = shifted[:, at.clamp(0, positions - 1)] * inside[:, None]
        total = total + moved @ a["weight"][:, :, tap].T
    filtered, gate = total.chunk(2, dim=-1)
    activated = filtered.tanh() / (1 + (-gate).exp())
    residual = activated @ a["residual_weight"][:, :, 0].T + a["residual_bias"]
    share = activated @ a["skip_weight"][:, :, 0].T + a["skip_bias"]
    return (shifted + residual) / 2**0.5, a["skips"] + share


@pytest.mark.parametrize("filtered", [-1e30, -50.0, -9.0, 0.0, 9.0, 50.0, 1e30])
@pytest.mark.parametrize("gate", [-1e30, -90.0, -9.0, 0.0, 9.0, 90.0, 1e30])
def test_gate_saturates(filtered, gate):
    """Where exponentials overflow, the gated activation still is what it tends to."""
    arguments = layer_arguments(0, (1, 2, 1), 1, torch.float32, skips=False)
    for name in ("weight", "bias", "skip_bias"):
        arguments[name].zero_()
    arguments["skip_weight"].fill_(1)
    arguments["mel"] = torch.tensor([filtered, gate]).expand(1, 2, 2)
    _, share = wavenet_layer(**arguments, dilation=1)
    expected = torch.tensor(filtered).double().tanh() * torch.tensor(gate).double().sigmoid()
    torch.testing.assert_close(share.double(), expected.expand(share.shape), rtol=1e-6, atol=2e-7)


def test_works_where_it_may_and_nowhere_else():
    arguments = layer_arguments(0, (1, 30, 8), 8, torch.float32)
    before = {name: value.clone() for name, value in arguments.items()}
    _, skips = wavenet_layer(**arguments, dilation=2)
    assert skips is arguments.pop("skips")
    for name, value in arguments.items():
        assert torch.equal(value, before[name])


def test_gradients_reach_all_arguments():
    arguments = layer_arguments(0, (2, 9, 4), 3, torch.float32)
    for value in arguments.values():
        value.requires_grad_()
    out, skips = wavenet_layer(**arguments, dilation=2)
    (out.sum() + skips.sum()).backward()
    assert all(value.grad is not None for value in arguments.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(9, 4)}, r"input must be \[B, N, C\], got \[9, 4\]"),
        ({"input": torch.zeros(2, 9, 4).int()}, "input must be float32, float16 or bfloat16"),
        ({"step": torch.zeros(3, 4)}, r"step must be contiguous \[2, 4\], got \[3, 4\]"),
        ({"mel": torch.zeros(2, 9, 4)}, r"mel must be contiguous \[2, 9, 8\]"),
        ({"weight": torch.zeros(8, 4, 5)}, r"weight must be contiguous \[8, 4, 3\]"),
        ({"bias": torch.zeros(4)}, r"bias must be contiguous \[8\]"),
        ({"residual_weight": torch.zeros(4, 4)}, r"residual_weight must be .*\[4, 4, 1\]"),
        ({"residual_bias": torch.zeros(4).half()}, "residual_bias must be float32, got float16"),
        ({"skip_weight": torch.zeros(3, 5, 1)}, r"skip_weight must be contiguous \[3, 4, 1\]"),
        ({"skip_bias": torch.zeros(4)}, r"skip_bias must be contiguous \[3\]"),
        ({"mask": torch.zeros(2, 1, 9)}, r"mask must be contiguous \[2, 9\]"),
        ({"skips": torch.zeros(2, 9, 4)}, r"skips must be contiguous \[2, 9, 3\]"),
        ({"dilation": 0}, "dilation must be at least 1, got 0"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {**layer_arguments(0, (2, 9, 4), 3, torch.float32), "dilation": 1, **change}
    with pytest.raises(ValueError, match=f"^septet.wavenet_layer: {message}"):
        wavenet_layer(**arguments)
