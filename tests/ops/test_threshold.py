"""The threshold quantile beyond its case rows: torch.quantile, the step's x0, bad arguments."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet import use_backend
from septet.ops import step, threshold_quantile
from septet.ops.table import NO_SLOT, NoiseKind, StepRow

ROW = StepRow(x0_sample=6.25, x0_output=-3.75, guidance_scale=2.5)
# x0 is the model output itself
IDENTITY = StepRow()


def _table(row, dtype=torch.float32):
    return torch.tensor([row.as_list()], dtype=dtype)


def _bound(values, ratio, maximum=float("inf")):
    """Return the bounds of given x0, ``[B, n]``."""
    table = _table(IDENTITY, values.dtype if values.dtype == torch.float64 else torch.float32)
    return threshold_quantile(torch.zeros_like(values), values, table, ratio=ratio, maximum=maximum)


@settings(deadline=None, max_examples=150)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
    spatial=st.lists(st.integers(1, 20), min_size=0, max_size=2),
    ratio=st.floats(0, 1),
    maximum=st.floats(1, 30),
    last=st.booleans(),
    guided=st.booleans(),
    variance=st.booleans(),
    levels=st.sampled_from([0, 1, 4]),
    seed=st.integers(0, 99),
)
def test_is_torchs_quantile(
    batch, channels, spatial, ratio, maximum, last, guided, variance, levels, seed
):
    g = torch.Generator().manual_seed(seed)

    def draw(factor):
        x = torch.randn(batch, factor * channels, *spatial, generator=g, dtype=torch.float64)
        x = (x * levels).round() / levels if levels else x
        return x.contiguous(memory_format=torch.channels_last) if last and x.dim() == 4 else x

    sample, output = draw(1), draw(1 + variance)
    uncond = draw(1 + variance) if guided else None
    m = output if uncond is None else uncond + 2.5 * (output - uncond)
    x0 = 6.25 * sample - 3.75 * m[:, :channels]
    expected = torch.quantile(x0.flatten(1).abs(), ratio, dim=1).clamp(1, maximum)
    actual = threshold_quantile(
        sample,
        output,
        _table(ROW, torch.float64),
        ratio=ratio,
        maximum=maximum,
        uncond_output=uncond,
    )
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False), min_size=1, max_size=40
    ),  # subnormal numbers and infinities are among them
    ratio=st.floats(0, 1),
)
def test_any_values(values, ratio):
    x = torch.tensor([values], dtype=torch.float32)
    expected = torch.quantile(x.abs(), ratio, dim=1).clamp(1)
    torch.testing.assert_close(_bound(x, ratio), expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 1.0])
def test_is_a_value_that_the_step_computes(dtype, guided, ratio):
    """Where no interpolation is needed, the bits are those of the step's own x0."""
    g = torch.Generator().manual_seed(5)
    sample, output, uncond = torch.randn(3, 2, 3, 11, 31, generator=g).to(dtype)
    sample, output = sample[..., :29], output[..., :29]  # 957 values: 956 is a multiple of 4
    options = {"uncond_output": uncond[..., :29]} if guided else {}
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    row = dataclasses.replace(ROW, x0_sample=50.0)
    bound = threshold_quantile(
        sample, output, _table(row, acc), ratio=ratio, maximum=1e9, **options
    )
    # in the accumulation type, so that nothing is rounded on the way out
    widened = {name: tensor.to(acc) for name, tensor in options.items()}
    _, x0 = step(
        sample.to(acc), output.to(acc), _table(row, acc), pred_original_sample=True, **widened
    )
    ordered = x0.flatten(1).abs().sort(dim=1).values
    assert torch.equal(bound, ordered[:, int(ratio * 956)].clamp(min=1))


def test_feeds_the_step():
    g = torch.Generator().manual_seed(1)
    sample, output = torch.randn(2, 4, 3, 16, 16, generator=g)
    table = _table(dataclasses.replace(ROW, pred_original=0.9))
    bound = threshold_quantile(sample, output, table, ratio=0.995, maximum=50.0)
    _, x0 = step(sample, output, table, threshold=bound, pred_original_sample=True)
    assert x0.abs().amax() == 1
    share = (x0.abs() == 1).float().flatten(1).mean(dim=1)
    assert ((share > 0.004) & (share < 0.007)).all()


@pytest.mark.parametrize("place", [0, 300, 70_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_stays_in_its_sample(place, dtype):
    x = torch.linspace(0, 3, 80_000, dtype=dtype).repeat(3, 1)
    x[1, place] = float("nan")
    bound = _bound(x, 0.9)
    assert bound.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_split_samples(threads):
    before = torch.get_num_threads()
    x = torch.randn(1, 120_001, generator=torch.Generator().manual_seed(3)) * 4
    x[0, 60_000:] = 7.5  # one chunk keeps nearly all
    try:
        torch.set_num_threads(threads)
        bounds = [_bound(x, ratio) for ratio in (0.3, 0.9, 0.995)]
    finally:
        torch.set_num_threads(before)
    for bound, ratio in zip(bounds, (0.3, 0.9, 0.995), strict=True):
        torch.testing.assert_close(bound, torch.quantile(x.abs(), ratio, dim=1))


def test_gradients_come_from_the_reference():
    x = torch.linspace(-9, 9, 20).reshape(1, 20).requires_grad_()
    _bound(x, 1.0, 100.0).sum().backward()
    assert x.grad.abs().sum() > 0


X = torch.linspace(-3, 3, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
SLOTS = dataclasses.replace(ROW, read_slots=(-1, 0, -2, -2), weights=(1.5, -0.5, 0.0, 0.0))
READS = "table row 0 reads slot 0; rows that combine stored outputs are not supported"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample": X.int()}, "sample must be float32, float64, float16 or bfloat16"),
        ({"sample": torch.tensor(1.0)}, r"sample must be \[B, ...\], got \[\]"),
        (
            {"sample": torch.ones(2, 0), "model_output": torch.ones(2, 0)},
            r"sample must have from 1 to 2\*\*31 - 1 elements per sample, got 0",
        ),
        ({"model_output": torch.ones(2, 3, 4, 5)}, "model_output must match sample in shape"),
        ({"model_output": X.double()}, "model_output must be float32, got float64"),
        ({"uncond_output": torch.ones(1, 3, 4, 4)}, "uncond_output must match sample in shape"),
        ({"table": torch.ones(24)}, r"table must be contiguous \[rows, 24\], got \[24\]"),
        ({"table": _table(ROW, torch.float64)}, "table must be float32, got float64"),
        ({"row": 1}, r"row must be in \[0, 1\), got 1"),
        ({"row": -1}, r"row must be in \[0, 1\), got -1"),
        ({"table": _table(SLOTS)}, READS),
        ({"ratio": 1.5}, r"ratio must be in \[0, 1\], got 1.5"),
        ({"ratio": -0.1}, r"ratio must be in \[0, 1\], got -0.1"),
        ({"ratio": float("nan")}, r"ratio must be in \[0, 1\], got nan"),
        ({"maximum": 0.0}, "maximum must be positive, got 0"),
        ({"maximum": float("nan")}, "maximum must be positive, got nan"),
    ],
)
def test_bad_arguments(arguments, message):
    valid = {
        "sample": X,
        "model_output": X,
        "table": _table(ROW),
        "ratio": 0.995,
        "maximum": 2.0,
    }
    with pytest.raises(ValueError, match=f"^septet.threshold_quantile: {message}"):
        threshold_quantile(**{**valid, **arguments})


def test_reference_refuses_slots_too():
    with (
        use_backend("eager"),
        pytest.raises(ValueError, match=f"^septet.threshold_quantile: {READS}"),
    ):
        threshold_quantile(X, X, _table(SLOTS), ratio=0.5, maximum=2.0)


def test_what_else_a_row_does_is_left_alone():
    """Noise and slots that a row writes are the step's business."""
    row = dataclasses.replace(ROW, noise_kind=NoiseKind.LEARNED, noise=1.0, write_slot=3)
    assert row.save_slot == NO_SLOT
    bounds = [threshold_quantile(X, X, _table(r), ratio=0.9, maximum=50.0) for r in (ROW, row)]
    assert torch.equal(*bounds)
