"""The fused step beyond its case rows: any row, bad arguments, gradients, compilation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet import _host
from septet.backend import use_backend
from septet.errors import LibraryError
from septet.ops import COLUMNS, CURRENT_OUTPUT, UNUSED, NoiseKind, StepRow, _library, step
from septet.testing.references.step import step as reference

X = torch.linspace(-2, 2, 24).reshape(2, 3, 4)
M = torch.linspace(1, -1, 24).reshape(2, 3, 4)


def table_of(*rows, dtype=torch.float32):
    return torch.tensor([row.as_list() for row in rows], dtype=dtype)


TABLE = table_of(StepRow(base=0.5, output=0.25))


def test_rows_survive_the_table():
    row = StepRow(
        guidance_scale=3.0, noise_kind=NoiseKind.LEARNED, write_slot=2, weights=(1, 2, 3, 4)
    )
    assert len(COLUMNS) == len(row.as_list()) == _host.TABLE_COLUMNS
    assert StepRow.from_list(row.as_list()) == row


coefficients = st.floats(-2, 2, width=32)
slots = st.sampled_from([CURRENT_OUTPUT, UNUSED, 0, 1, 2])


@st.composite
def rows(draw):
    return StepRow(
        guidance_scale=draw(coefficients),
        x0_sample=draw(coefficients),
        x0_output=draw(coefficients),
        x0_divisor=draw(st.floats(0.5, 2, width=32)),
        x0_clip=draw(st.sampled_from([0.75, math.inf])),
        pred_original=draw(coefficients),
        base=draw(coefficients),
        output=draw(coefficients),
        prior_mean=draw(coefficients),
        noise_kind=draw(st.sampled_from(list(NoiseKind))),
        noise=draw(coefficients),
        log_variance_low=draw(st.floats(-3, -1, width=32)),
        log_variance_high=draw(st.floats(-1, 1, width=32)),
        write_slot=draw(st.integers(-1, 2)),
        base_slot=draw(st.integers(-1, 2)),
        read_slots=tuple(draw(slots) for _ in range(4)),
        weights=tuple(draw(coefficients) for _ in range(4)),
    )


@settings(deadline=None, max_examples=150)
@given(
    row=rows(),
    shape=st.lists(st.integers(1, 7), min_size=2, max_size=4).map(tuple),
    last=st.booleans(),
    uses=st.sets(st.sampled_from(["uncond_output", "mu", "mask"])),
    seed=st.integers(0, 1000),
)
def test_any_row_agrees_with_the_reference(row, shape, last, uses, seed):
    g = torch.Generator().manual_seed(seed)
    twice = (shape[0], 2 * shape[1], *shape[2:])

    def draw(size):
        value = torch.randn(size, generator=g, dtype=torch.float64)
        if last and len(size) == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        return value

    output = draw(twice)
    output[:, shape[1] :].abs_()
    options = {"noise": draw(shape), "slots": torch.stack([draw(shape) for _ in range(3)])}
    if last and len(shape) == 4:
        options["slots"] = torch.stack([s.permute(0, 2, 3, 1) for s in options["slots"]]).permute(
            0, 1, 4, 2, 3
        )
    if "uncond_output" in uses:
        options["uncond_output"] = draw(twice)
    if "mu" in uses:
        options["mu"] = draw(shape)
    if "mask" in uses:
        options["mask"] = draw((shape[0], 1, *shape[2:])).contiguous()
    sample = draw(shape)
    table = table_of(row, dtype=torch.float64)
    expected_slots = options["slots"].clone()
    expected = reference(sample, output, table, 0, **{**options, "slots": expected_slots})
    actual = step(sample, output, table, 0, pred_original_sample=True, **options)
    for a, b in zip((*actual, options["slots"]), (*expected, expected_slots), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_strided_operands_are_brought_into_order():
    wide = torch.randn(2, 3, 4, 10)
    noise = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    sample, output = wide[..., ::2], wide[..., 1::2]
    table = table_of(StepRow(base=1.0, noise_kind=NoiseKind.CONSTANT, noise=0.5))
    actual = step(sample, output, table, noise=noise)
    torch.testing.assert_close(actual, sample + output + 0.5 * noise)


def test_inputs_are_left_alone():
    x, m = X.clone(), M.clone()
    step(x, m, TABLE)
    assert torch.equal(x, X)
    assert torch.equal(m, M)


NOISY = table_of(StepRow(noise_kind=NoiseKind.CONSTANT, noise=1.0))
LEARNED = table_of(StepRow(noise_kind=NoiseKind.LEARNED_RANGE, noise=1.0))
HISTORY = table_of(StepRow(write_slot=1))
READS = table_of(StepRow(base_slot=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_output": M[:1]}, r"model_output must match sample in shape, got \[1, 3, 4\] and"),
        ({"model_output": M.double()}, "model_output must be float32, got float64"),
        ({"sample": X.long()}, "sample must be float32, float64, float16 or bfloat16, got int64"),
        ({"row": 1}, r"row must be in \[0, 1\), got 1"),
        ({"row": -1}, r"row must be in \[0, 1\), got -1"),
        ({"counter": torch.tensor(5)}, r"row must be in \[0, 1\), got 5"),
        ({"counter": torch.tensor([0, 0])}, r"counter must hold one number, got \[2\]"),
        ({"table": TABLE.double()}, "table must be float32, got float64"),
        ({"table": TABLE[:, :20]}, r"table must be contiguous \[rows, 24\], got \[1, 20\]"),
        ({"noise": M[..., :2]}, r"noise must match sample in shape, got \[2, 3, 2\]"),
        ({"mu": M.half()}, "mu must be float32, got float16"),
        ({"mask": M}, "mask must be contiguous, of the shape of sample with one channel"),
        ({"threshold": torch.ones(3)}, r"threshold must hold one number per sample, got \[3\]"),
        ({"slots": M}, r"slots\[k\] must match sample in shape"),
        ({"table": HISTORY}, "table row 0 names slot 1, but slots holds 0"),
        ({"table": HISTORY, "slots": M[None]}, "table row 0 names slot 1, but slots holds 1"),
        ({"slots": M.repeat(9, 1, 1, 1)}, "slots must hold at most 8 tensors, got 9"),
        ({"stored": [M] * 9}, "stored must hold at most 8 tensors, got 9"),
        ({"stored": [M[:1]]}, r"stored\[k\] must match sample in shape"),
        ({"stored": [M], "slots": M[None]}, "only one of slots and stored can be given"),
        ({"table": READS, "stored": [M]}, "table row 0 names slot 1, but stored holds 1"),
        ({"table": NOISY}, "table row 0 adds noise, so noise or philox must be given"),
        (
            {"table": LEARNED, "noise": M},
            "table row 0 has learned variance, so model_output must have 6 channels, got 3",
        ),
        ({"sample": X.to("meta"), "model_output": M.to("meta")}, None),
    ],
)
def test_bad_arguments(arguments, message):
    options = {"sample": X, "model_output": M, "table": TABLE, "row": 0, **arguments}
    if message is None:  # no kernel for that device: a fake tensor has no values to compute with
        assert step(**options).is_meta
        return
    with pytest.raises(ValueError, match=f"^septet.step: {message}"):
        step(**options)


def test_gradients_come_from_the_reference():
    x = X.double().requires_grad_()
    m = M.double().requires_grad_()
    table = table_of(
        StepRow(x0_sample=1.25, x0_output=-0.75, pred_original=0.4, base=0.3, output=0.2),
        dtype=torch.float64,
    )
    torch.autograd.gradcheck(lambda a, b: step(a, b, table), (x, m))


def test_backends_agree_in_one_process(monkeypatch):
    fused = step(X, M, TABLE)
    with use_backend("eager"):
        monkeypatch.setattr(_library, "ops", None)  # must not be needed
        eager = step(X, M, TABLE)
    torch.testing.assert_close(fused, eager)
    with pytest.raises(ValueError, match="backend must be one of fused, eager, got 'fast'"):
        use_backend("fast").__enter__()


def test_compiles_without_a_graph_break():
    def chain(x, m, slots):
        x = step(x, m, HISTORY, slots=slots)
        return step(x, slots[1], TABLE)

    slots = torch.zeros(2, *X.shape)
    expected = chain(X, M, slots.clone())
    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")
    actual = compiled(X, M, slots)
    assert torch.equal(actual, expected)
    assert torch.equal(slots[1], M)


def test_a_missing_library_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "_FOLDER", tmp_path)
    with pytest.raises(LibraryError, match="no-build-isolation"):
        _library.load("_C")
    (tmp_path / "_C.so").write_bytes(b"not a library")
    with pytest.raises(LibraryError, match=r"does not load with torch .* reinstall"):
        _library.load("_C")
    error = _library._try_to_load("_C")
    assert isinstance(error, LibraryError)
    monkeypatch.setattr(_library, "_error", error)
    with pytest.raises(ImportError, match="SEPTET_BACKEND=eager"):
        step(X, M, TABLE)


@settings(deadline=None, max_examples=50)
@given(row=rows())
def test_folding_a_row_changes_nothing_but_the_work(row):
    options = {"mu": M.double(), "noise": X.double(), "slots": torch.ones(3, *X.shape).double()}
    output = torch.cat([M, M.abs()], dim=1).double()
    results = []
    for r in (row, row.folded()):
        slots = {"slots": options["slots"].clone()}
        prev, original = step(
            X.double(),
            output,
            table_of(r, dtype=torch.float64),
            pred_original_sample=True,
            **{**options, **slots},
        )
        results.append((prev, original, slots["slots"]))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_device_without_kernels_says_why(monkeypatch):
    class Ops:
        class step:
            @staticmethod
            def plain(*arguments):
                raise NotImplementedError(
                    "Could not run 'septet::step' with arguments from the 'CUDA' backend. This"
                )

    monkeypatch.setattr(_library, "ops", Ops)
    with pytest.raises(LibraryError, match=r"'CUDA' backend\. septet has kernels for"):
        step(X, M, TABLE)
    monkeypatch.setattr(_library, "_cuda_error", LibraryError("the driver is too old"))
    with pytest.raises(LibraryError, match="no CUDA kernels: the driver is too old"):
        step(X, M, TABLE)
