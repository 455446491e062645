"""The case rows of every op family, in sizes that are worth timing.

A family is measured if its module in :mod:`septet.testing.cases` lists rows in ``LARGE``, which
are taken as they are, or if :data:`ENLARGED` names rows of its ``CASES``.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from septet.backend import use_backend
from septet.bench.rows import Implementation, Row, Workload, shape_text
from septet.ops import NoiseKind, StepRow
from septet.testing import cases
from septet.testing.cases import OpCase

_HALF = (torch.float32, torch.bfloat16, torch.float16)
_SINGLE = (torch.float32,)


@dataclass(frozen=True)
class Enlarged:
    """A test's case row, to be repeated in space until it is large.

    Attributes:
        op: Name of the op.
        name: Name of the row in ``CASES``.
        dtypes: What to run it in.
        elements: About how many elements the first tensor is to have; 4x3x256x256 by default.
    """

    op: str
    name: str
    dtypes: tuple[torch.dtype, ...] = _SINGLE
    elements: int = 4 * 3 * 256 * 256


ENLARGED = (
    Enlarged("step", "ddpm", _HALF),
    Enlarged("step", "ddpm_channels_last"),
    Enlarged("step", "ddim", _HALF),
    Enlarged("step", "plms"),
    Enlarged("step", "runge_kutta_last"),
    Enlarged("step", "glide", _HALF),
    Enlarged("step", "latent_diffusion"),
    Enlarged("step", "learned_variance"),
    Enlarged("step", "v_prediction"),
    Enlarged("step", "dynamic_threshold"),
    Enlarged("step", "bddm"),
    Enlarged("step", "grad_tts_ode"),
    Enlarged("step", "grad_tts_sde"),
    Enlarged("step", "philox_per_sample"),
    Enlarged("threshold_quantile", "usual", _HALF),
    Enlarged("threshold_quantile", "variance_channels_last"),
    Enlarged("philox_normal", "one_stream", _HALF),
    Enlarged("philox_normal", "per_sample"),
    # as large as in the network of ddpm-cifar10, then as in one of 256x256 pixels
    Enlarged("group_norm_act", "unet", elements=128 * 32 * 32),
    Enlarged("group_norm_act", "unet_channels_last", _HALF, elements=128 * 32 * 32),
    Enlarged("group_norm_act", "unet", elements=128 * 128 * 128),
    Enlarged("group_norm_act", "unet_channels_last", _HALF, elements=128 * 128 * 128),
    Enlarged("group_norm_act", "scale_shift_channels_last", elements=128 * 128 * 128),
    Enlarged("group_norm_act", "mish_mask", elements=128 * 128 * 128),
)


_Inputs = Callable[[], dict[str, Any]]


def rows() -> list[Row]:
    """Return the rows of every family."""
    modules = [
        importlib.import_module(f"{cases.__name__}.{module.name}")
        for module in pkgutil.iter_modules(cases.__path__)
    ]
    small = {(case.op, case.name): case for module in modules for case in module.CASES}
    found = [_row(small[e.op, e.name], dtype, e.elements) for e in ENLARGED for dtype in e.dtypes]
    for module in modules:
        for case in getattr(module, "LARGE", ()):
            found += [_row(case, dtype) for dtype in case.dtypes if dtype != torch.float64]
    return found


def _row(case: OpCase, dtype: torch.dtype, elements: int = 0) -> Row:
    """Make a row of a case, enlarged to so many elements, or as it is for 0."""

    def inputs() -> dict[str, Any]:
        arguments = case.inputs(dtype)
        return enlarged(arguments, elements) if elements else arguments

    shape = grown(lead_shape(case.inputs(dtype)), elements)
    dtype_name = str(dtype).removeprefix("torch.")
    facts = {"op": case.op, "row": case.name, "dtype": dtype_name, "shape": shape_text(shape)}
    name = f"{case.op}/{case.name}/{dtype_name}/{shape_text(shape)}"
    return Row("ops", name, facts, lambda: _build(case, inputs))


def _build(case: OpCase, inputs: _Inputs) -> Workload:
    arguments = inputs()

    def result(backend: str, wide: bool = False) -> Callable[[], list[Tensor]]:
        def compute() -> list[Tensor]:
            own = inputs()
            if wide:
                own = {name: widened(value) for name, value in own.items()}
            with use_backend(backend):
                returned = case.face(**own)
            return [*tensors(returned), *(own[name] for name in case.changed)]

        return compute

    exact = result("eager", wide=True)
    if "philox" in arguments:
        baseline = Implementation("torch.randn", _with_randn(case, arguments), list, None, True)
    else:
        baseline = Implementation("eager", _eager(case, arguments), result("eager"), exact, True)
    fused = Implementation("septet", lambda: case.face(**arguments), result("fused"), exact)
    returned = tensors(case.face(**inputs()))
    count = TRAFFIC.get(case.op, all_bytes)
    num_bytes = count(arguments, sum(tensor.nbytes for tensor in returned))
    return Workload((baseline, fused), "the plain-torch reference in float64", num_bytes)


def _eager(case: OpCase, arguments: Mapping[str, Any]) -> Callable[[], object]:
    def call() -> object:
        with use_backend("eager"):
            return case.face(**arguments)

    return call


def _with_randn(case: OpCase, arguments: Mapping[str, Any]) -> Callable[[], object]:
    """Draw with torch what the op draws itself.

    The reference of Philox is an oracle in integer arithmetic that nobody would use, so being
    faster than that says nothing. The numbers are others than the op's.
    """
    generator = torch.Generator().manual_seed(0)
    shape = lead_shape(arguments)
    if "shape" in arguments:
        return lambda: torch.randn(shape, generator=generator, dtype=arguments["dtype"])
    dtype = arguments["sample"].dtype
    others = {name: v for name, v in arguments.items() if not name.startswith("philox")}

    def call() -> object:
        noise = torch.randn(shape, generator=generator, dtype=dtype)
        with use_backend("eager"):
            return case.face(**others, noise=noise)

    return call


def tensors(returned: object) -> list[Tensor]:
    """List what a face has returned."""
    return list(returned) if isinstance(returned, tuple) else [returned]  # type: ignore[list-item]


def widened(value: Any) -> Any:
    """Return an argument in float64."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return torch.float64 if isinstance(value, torch.dtype) else value


# -- bytes ----------------------------------------------------------------------------------------


def all_bytes(arguments: Mapping[str, Any], returned: int) -> int:
    """Count every argument once, and the results."""
    return returned + sum(v.nbytes for v in arguments.values() if isinstance(v, Tensor))


def _step_bytes(arguments: Mapping[str, Any], returned: int) -> int:
    """Count what the row at hand reads and writes: not every slot, not every channel."""
    row = StepRow.from_list(arguments["table"][arguments["row"]].tolist())
    unit: int = arguments["sample"].nbytes
    learned = row.noise_kind in (NoiseKind.LEARNED, NoiseKind.LEARNED_RANGE)
    total: int = returned + unit + (arguments["model_output"].nbytes if learned else unit)
    total += unit * ("uncond_output" in arguments)
    names = ("mu", "mask", "threshold") + ("noise",) * (row.noise_kind != NoiseKind.NONE)
    total += sum(arguments[name].nbytes for name in names if name in arguments)
    read = {slot for slot in (*row.read_slots, row.base_slot) if slot >= 0}
    written = {slot for slot in (row.write_slot, row.save_slot) if slot >= 0}
    return total + unit * (len(read) + len(written))


#: How many bytes a call of an op reads and writes, from its arguments and the bytes it returns;
#: ops that are not here read every argument once.
TRAFFIC: dict[str, Callable[[Mapping[str, Any], int], int]] = {"step": _step_bytes}


# -- size -----------------------------------------------------------------------------------------


def lead_shape(arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape that says how large a call is: its ``shape``, or its first tensor's."""
    shape = arguments.get("shape")
    if shape is None:
        shape = next(v for v in arguments.values() if isinstance(v, Tensor)).shape
    return tuple(shape)


def grown(shape: tuple[int, ...], elements: int) -> tuple[int, ...]:
    """Multiply the spatial axes by one whole number, so that the shape has so many elements.

    Args:
        shape: ``[B, C, ...]``, or ``[B, N]``, whose last axis then counts as space.
        elements: About how many elements it is to have.
    """
    axes = _num_spatial(shape)
    factor = max(1, round(math.pow(elements / math.prod(shape), 1 / axes)))
    return (*shape[:-axes], *(factor * size for size in shape[-axes:]))


def enlarged(arguments: Mapping[str, Any], elements: int) -> dict[str, Any]:
    """Repeat the tensors of a call along their spatial axes, alike, in the same memory layout.

    Args:
        arguments: Of an op.
        elements: About how many elements its :func:`lead_shape` is to have.
    """
    lead = lead_shape(arguments)
    large = dict(arguments)
    if "shape" in arguments:
        large["shape"] = grown(lead, elements)
        return large
    axes = _num_spatial(lead)
    factor = grown(lead, elements)[-1] // lead[-1]
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.dim() > axes and value.shape[-axes:] == lead[-axes:]:
            large[name] = _repeated(value, axes, factor)
    return large


def _num_spatial(shape: tuple[int, ...]) -> int:
    return max(1, len(shape) - 2)


def _repeated(tensor: Tensor, axes: int, factor: int) -> Tensor:
    """Repeat the last axes; ``Tensor.repeat`` alone would forget the order in memory."""
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda axis: strides[axis], reverse=True)
    repeats = [factor if axis >= tensor.dim() - axes else 1 for axis in order]
    in_memory_order = tensor.permute(order).repeat(repeats)
    return in_memory_order.permute([order.index(axis) for axis in range(tensor.dim())])
