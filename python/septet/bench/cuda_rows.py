"""Kernels, attention and a network on a CUDA device, beside what others do there.

Every call waits for the device in the end, so the time of small cases includes that. Everything
here also runs on the CPU, where tests do so.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from septet.backend import use_backend
from septet.bench import attention_rows, model_rows, op_rows
from septet.bench.attention_rows import AttentionSpec
from septet.bench.machine import waiting
from septet.bench.model_rows import ModelSpec
from septet.bench.rows import Implementation, Row, Workload, has_diffusers, shape_text
from septet.capture import StepGraphs
from septet.models import UNet2DModel
from septet.ops.table import StepRow
from septet.pipelines.base import prepare
from septet.sampling import SamplingLoop
from septet.schedulers import StepTable
from septet.testing.cases import OpCase, all_cases

#: 64 MB in float32: nothing of it stays in a cache.
_LARGE = 16 * 2**20
_OPS = (
    ("step", "ddpm"),
    ("step", "ddim"),
    ("step", "philox_per_sample"),
    ("philox_normal", "one_stream"),
    ("group_norm_act", "unet"),
    ("group_norm_act", "unet_channels_last"),
)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_HALF = (torch.float16,)
_ATTENTION = (
    *(AttentionSpec("square", 2, 4096, 4096, 8, width, dtypes=_HALF) for width in (64, 128)),
    *(spec for spec in attention_rows.SPECS if torch.float16 in spec.dtypes),
)
#: SDPA's ways to compute, by their names in the records.
_BACKENDS = {
    "sdpa (flash)": SDPBackend.FLASH_ATTENTION,
    "sdpa (efficient)": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa (cudnn)": SDPBackend.CUDNN_ATTENTION,
    "sdpa (math)": SDPBackend.MATH,
}
_MODELS = tuple(
    ModelSpec("ddpm-cifar10", model_rows.DDPM_CIFAR10, (batch, 3, 32, 32)) for batch in (1, 64)
)
_STEPS = 20


def rows() -> list[Row]:
    """Return the rows of the suite."""
    cases = {(case.op, case.name): case for case in all_cases()}
    found = [_op_row(cases[key], dtype) for key in _OPS for dtype in _DTYPES]
    found += [_attention_row(spec, dtype) for spec in _ATTENTION for dtype in _HALF]
    return found + [_model_row(spec, dtype) for spec in _MODELS for dtype in _DTYPES[:2]]


def _facts(name: str, dtype: torch.dtype, shape: str) -> dict[str, Any]:
    return {"row": name, "dtype": _name(dtype), "shape": shape, "device": "cuda"}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def moved(value: Any, device: str) -> Any:
    """Return a value with its tensors on a device."""
    if isinstance(value, list):
        return [moved(part, device) for part in value]
    return value.to(device) if isinstance(value, Tensor) else value


# -- ops ------------------------------------------------------------------------------------------


def _op_row(case: OpCase, dtype: torch.dtype) -> Row:
    shape = shape_text(op_rows.grown(op_rows.lead_shape(case.inputs(dtype)), _LARGE))
    name = f"cuda/{case.op}/{case.name}/{_name(dtype)}/{shape}"
    facts = {"op": case.op, **_facts(case.name, dtype, shape)}
    return Row("cuda", name, facts, lambda: build_op(case, dtype, _LARGE, "cuda"))


def build_op(case: OpCase, dtype: torch.dtype, elements: int, device: str) -> Workload:
    """Make an enlarged case ready to run: plain torch, the same compiled, and the kernel."""
    inputs = op_rows.enlarged(case.inputs(dtype), elements)
    arguments = {name: moved(value, device) for name, value in inputs.items()}

    def call(backend: str) -> Callable[[], object]:
        def compute() -> object:
            with use_backend(backend):
                return case.face(**arguments)

        return waiting(compute, device)

    def result(backend: str, wide: bool = False) -> Callable[[], list[Tensor]]:
        def compute() -> list[Tensor]:
            own = {k: moved(v, device) for k, v in case.inputs(dtype).items()}
            if wide:
                own = {name: op_rows.widened(value) for name, value in own.items()}
            with use_backend(backend):
                return op_rows.tensors(case.face(**own))

        return compute

    exact = result("eager", wide=True)
    compiled = torch.compile(case.reference)
    # the reference returns both samples of a step in any case
    formulas = {k: v for k, v in arguments.items() if k != "pred_original_sample"}
    found = [
        Implementation("eager", call("eager"), result("eager"), exact, True),
        # the same formulas, and so no result of its own
        Implementation("compiled", waiting(lambda: compiled(**formulas), device), list, None),
        Implementation("septet", call("fused"), result("fused"), exact),
    ]
    returned = sum(tensor.nbytes for tensor in op_rows.tensors(case.face(**arguments)))
    traffic = op_rows.TRAFFIC.get(case.op, op_rows.all_bytes)
    reference = "the plain-torch reference in float64, on the small case"
    return Workload(tuple(found), reference, traffic(inputs, returned), device=device)


# -- attention ------------------------------------------------------------------------------------


def _attention_row(spec: AttentionSpec, dtype: torch.dtype) -> Row:
    shape = (spec.batch, spec.queries, spec.prefix + spec.keys, spec.heads, spec.width)
    name = f"cuda/attention/{spec.model}/{_name(dtype)}/{shape_text(shape)}"
    facts = {"op": "attention", **_facts(spec.model, dtype, shape_text(shape))}
    return Row("cuda", name, facts, lambda: build_attention(spec, dtype, "cuda"))


def build_attention(spec: AttentionSpec, dtype: torch.dtype, device: str) -> Workload:
    """Make a layer ready to run: our kernel and every backend of SDPA that takes it."""
    arguments = attention_rows.inputs(spec, dtype, device)
    exact = functools.partial(attention_rows.exact, arguments)
    found: list[Implementation] = []
    for name, backend in _BACKENDS.items():
        compute = functools.partial(_sdpa, arguments, backend)
        if _works(compute):
            found.append(_attention(name, compute, exact, device, is_baseline=not found))
    own = attention_rows.calls(arguments)["septet"]
    found.append(_attention("septet", own, exact, device, is_baseline=not found))
    reference = "the plain-torch reference in float64"
    return Workload(tuple(found), reference, num_flops=spec.num_flops, device=device, dtype=dtype)


def _attention(
    name: str,
    compute: Callable[[], Tensor],
    exact: Callable[[], list[Tensor]],
    device: str,
    is_baseline: bool,
) -> Implementation:
    def result() -> list[Tensor]:
        return attention_rows.compared(compute())

    return Implementation(name, waiting(compute, device), result, exact, is_baseline)


def _sdpa(arguments: Mapping[str, Tensor], backend: SDPBackend) -> Tensor:
    """Compute with one backend; a prefix has to be put before the keys first."""

    def whole(name: str) -> Tensor:
        prefix = arguments.get(f"prefix_{name}")
        tensor = arguments[name]
        return tensor if prefix is None else torch.cat([prefix, tensor], dim=1)

    query, key, value = arguments["query"], whole("key"), whole("value")
    with sdpa_kernel(backend):
        output = scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
    return output.transpose(1, 2)


def _works(compute: Callable[[], object]) -> bool:
    """Tell whether a backend takes a call; it raises otherwise."""
    try:
        compute()
    except RuntimeError:
        return False
    return True


# -- a network ------------------------------------------------------------------------------------


def _model_row(spec: ModelSpec, dtype: torch.dtype) -> Row:
    shape = shape_text(spec.shape)
    facts = {"model": spec.name, "weights": "random", **_facts(spec.name, dtype, shape)}
    name = f"cuda/{spec.name}/{_name(dtype)}/{shape}"
    return Row("cuda", name, facts, lambda: build_model(spec, dtype, "cuda"))


def build_model(
    spec: ModelSpec, dtype: torch.dtype, device: str, graphs: StepGraphs | None = None
) -> Workload:
    """Make a denoising step ready to run: in diffusers, compiled in two ways, and here."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = UNet2DModel(**spec.config).eval().requires_grad_(False)
        sample = torch.randn(spec.shape).to(device, dtype)
    weights = own.state_dict()
    flops = model_rows.num_flops(spec)
    own.to(device, dtype)
    rounded = {name: value.to(dtype).double() for name, value in weights.items()}

    @functools.cache
    def exact() -> list[Tensor]:
        wide = UNet2DModel(**spec.config).eval().requires_grad_(False).double()
        wide.load_state_dict(rounded)
        return [wide(sample.double().cpu(), model_rows.TIMESTEP).sample]

    calls: dict[str, Callable[[], Tensor]] = {}
    if has_diffusers():
        peer = _diffusers_model(spec, weights).to(device, dtype)
        peer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        calls["diffusers"] = functools.partial(_predict, peer, sample)
        for mode in ("default", "max-autotune") if device == "cuda" else ():
            compiled: Any = torch.compile(peer, mode=mode)
            calls[f"diffusers (compiled, {mode})"] = functools.partial(_predict, compiled, sample)
    calls["septet"] = functools.partial(_predict, own, sample)
    found = [
        Implementation(
            name,
            waiting(call, device),
            lambda call=call: [call().cpu()],  # type: ignore[misc]
            exact,
            is_baseline=index == 0,
        )
        for index, (name, call) in enumerate(calls.items())
    ]
    found.append(_captured_step(own, sample, exact, device, graphs))
    reference = "the same network in float64"
    return Workload(tuple(found), reference, num_flops=flops, device=device, dtype=dtype)


def _diffusers_model(spec: ModelSpec, weights: dict[str, Tensor]) -> nn.Module:
    peer: Any = importlib.import_module("diffusers").UNet2DModel
    model: nn.Module = peer(**spec.config).eval().requires_grad_(False)
    model.load_state_dict(weights)
    return model


def _predict(model: nn.Module, sample: Tensor) -> Tensor:
    output: Tensor = model(sample, model_rows.TIMESTEP).sample
    return output


def _captured_step(
    model: UNet2DModel,
    sample: Tensor,
    exact: Callable[[], list[Tensor]],
    device: str,
    graphs: StepGraphs | None,
) -> Implementation:
    """Time a step of the loop, by walking through a run again and again.

    The rows hand the output on, so that the first step's result is that of the network.
    """
    table = StepTable([StepRow()] * _STEPS, [model_rows.TIMESTEP] * _STEPS)
    prepared = prepare(model, table, sample.device)
    graphs = StepGraphs() if graphs is None else graphs
    steps = SamplingLoop(table, graphs=graphs).captured_steps(prepared, sample)
    first = next(steps).clone()
    step = 1

    def call() -> Tensor:
        nonlocal steps, step
        if step == _STEPS:
            steps, step = SamplingLoop(table, graphs=graphs).captured_steps(prepared, sample), 0
        step += 1
        return next(steps)

    return Implementation("septet (graph)", waiting(call, device), lambda: [first.cpu()], exact)
