"""The kernels on a real CUDA device; run by make test-gpu."""

from __future__ import annotations

import pytest
import torch

from septet.ops import philox_normal, step, torch_cuda_offset, torch_cuda_threads
from septet.testing.cases import all_cases
from septet.testing.tolerances import assert_as_accurate

pytestmark = pytest.mark.cuda
ROWS = [
    pytest.param(case, dtype, id=f"{case.id}-{str(dtype).removeprefix('torch.')}")
    for case in all_cases()
    if getattr(case, "cuda", True)
    for dtype in case.dtypes
]


def _on(device, arguments):
    def moved(value):
        if isinstance(value, list):
            return [moved(entry) for entry in value]
        return value.to(device) if isinstance(value, torch.Tensor) else value

    return {name: moved(value) for name, value in arguments.items()}


def _call(case, arguments):
    result = case.face(**arguments)
    tensors = list(result) if isinstance(result, tuple) else [result]
    return tensors + [arguments[name] for name in case.changed]


@pytest.mark.parametrize(("case", "dtype"), ROWS)
def test_device_agrees_with_the_cpu(case, dtype):
    on_cpu = _call(case, case.inputs(dtype))
    on_cuda = _call(case, _on("cuda", case.inputs(dtype)))
    for a, b in zip(on_cuda, on_cpu, strict=True):
        assert a.is_cuda
        if case.bitwise:
            assert torch.equal(a.cpu().nan_to_num(7), b.nan_to_num(7))
        else:
            assert_as_accurate(a.cpu(), b, b.double(), case.single)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (1, 3, 32, 32), (2, 3, 512, 512), (9, 3, 256, 255)])
def test_noise_continues_a_generator_of_torch(shape, dtype):
    generator = torch.Generator("cuda").manual_seed(1234)
    properties = torch.cuda.get_device_properties("cuda")
    numel = torch.Size(shape).numel()
    threads = torch_cuda_threads(
        numel, properties.multi_processor_count, properties.max_threads_per_multi_processor
    )
    for _ in range(2):
        pair = [[generator.initial_seed(), generator.get_offset()]]
        ours = philox_normal(torch.tensor(pair, device="cuda"), shape, dtype, threads=threads)
        theirs = torch.randn(shape, generator=generator, device="cuda", dtype=dtype)
        assert torch.equal(ours, theirs)
        assert generator.get_offset() == pair[0][1] + torch_cuda_offset(numel, threads)


def test_table_and_seeds_may_stay_on_the_host():
    x, m = torch.randn(2, 2, 3, 8, 8, device="cuda")
    case = next(c for c in all_cases() if c.name == "philox_per_sample")
    options = case.inputs(torch.float32)
    table, philox = options["table"], options["philox"]
    arguments = {"row": 1, "philox_increment": 64}
    here = step(x, m, table.cuda(), philox=philox.cuda(), **arguments)
    assert torch.equal(step(x, m, table, philox=philox, **arguments), here)
