"""Every case row: against the reference, across implementations, through opcheck."""

from __future__ import annotations

import pytest
import torch

from septet.ops import _library
from septet.testing.cases import all_cases
from septet.testing.tolerances import assert_as_accurate

CASES = all_cases()
ROWS = [
    pytest.param(case, dtype, id=f"{case.id}-{str(dtype).removeprefix('torch.')}")
    for case in CASES
    for dtype in case.dtypes
]


# The rows that have a CUDA source. The emulator takes its time, and float64 shows little more.
CUDA_ROWS = [
    pytest.param(*row.values, id=row.id, marks=[pytest.mark.slow] * (torch.float64 in row.values))
    for row in ROWS
    if row.values[0].cuda
]


def _widened(value):
    if isinstance(value, list):
        return [_widened(entry) for entry in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.double()
    return torch.float64 if isinstance(value, torch.dtype) else value


def _call(function, arguments, changed):
    """Return every tensor that a call returns or changes."""
    result = function(**arguments)
    results = result if isinstance(result, tuple) else (result,)
    return [r for r in results if r is not None] + [arguments[name] for name in changed]


def _reference(case, arguments):
    options = dict(arguments)
    both = options.pop("pred_original_sample", None)
    tensors = _call(case.reference, options, case.changed)
    if case.op == "step" and not both:
        del tensors[1]
    return tensors


@pytest.mark.parametrize(("case", "dtype"), ROWS)
def test_kernel_is_as_accurate_as_plain_torch(case, dtype):
    actual = _call(case.face, case.inputs(dtype), case.changed)
    reference = _reference(case, case.inputs(dtype))
    exact = _reference(case, {k: _widened(v) for k, v in case.inputs(dtype).items()})
    assert len(actual) == len(reference)
    for a, r, e in zip(actual, reference, exact, strict=True):
        if a.is_floating_point():
            assert_as_accurate(a, r, e, case.single)
        else:
            assert torch.equal(a, r)


@pytest.mark.parametrize(("case", "dtype"), ROWS)
def test_numpy_gives_the_same_bits(case, dtype, host_ops, request):
    through_numpy = _call(case.face, case.inputs(dtype), case.changed)
    request.getfixturevalue("monkeypatch").undo()
    for a, b in zip(through_numpy, _call(case.face, case.inputs(dtype), case.changed), strict=True):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@pytest.mark.parametrize(("case", "dtype"), CUDA_ROWS)
def test_cuda_source_agrees_in_the_emulator(case, dtype, emulated_ops, monkeypatch):
    emulated = _call(case.face, case.inputs(dtype), case.changed)
    monkeypatch.undo()
    expected = _call(case.face, case.inputs(dtype), case.changed)
    reference = _reference(case, case.inputs(dtype))
    exact = _reference(case, {k: _widened(v) for k, v in case.inputs(dtype).items()})
    for a, b, r, e in zip(emulated, expected, reference, exact, strict=True):
        if case.bitwise:
            assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))
        else:
            assert_as_accurate(a, r, e, case.single)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["reverse", "shuffle:1"])
@pytest.mark.parametrize(("case", "dtype"), CUDA_ROWS)
def test_order_of_threads_does_not_change_bits(case, dtype, order, emulated_ops, monkeypatch):
    forward = _call(case.face, case.inputs(dtype), case.changed)
    monkeypatch.setenv("SEPTET_EMULATOR_ORDER", order)
    for a, b in zip(forward, _call(case.face, case.inputs(dtype), case.changed), strict=True):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@pytest.mark.parametrize(("case", "dtype"), ROWS)
def test_thread_count_does_not_change_bits(case, dtype):
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(_call(case.face, case.inputs(dtype), case.changed))
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


class _Recorder:
    """Keeps the overload that a Python face calls, and the arguments it hands over."""

    def __init__(self, op):
        self._op = op

    def __getattr__(self, overload):
        def call(*arguments):
            self.called, self.arguments = getattr(self._op, overload), arguments
            self.called(*arguments)

        return call


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_opcheck(case, monkeypatch):
    recorder = _Recorder(getattr(_library.ops(), case.op))
    arguments = case.inputs(torch.float32)
    monkeypatch.setattr(_library, "ops", lambda: type("Ops", (), {case.op: recorder}))
    case.face(**arguments)
    torch.library.opcheck(recorder.called, recorder.arguments)


def test_every_op_has_rows_in_every_role():
    registered = {
        schema.name.removeprefix("septet::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("septet::")
    }
    assert registered, "the compiled library registers no ops"
    assert registered == {case.op for case in CASES}
