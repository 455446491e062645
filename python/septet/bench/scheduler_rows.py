"""One call of ``scheduler.step``, as a pipeline makes it, against diffusers and plain torch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from septet import ops, schedulers
from septet.backend import use_backend
from septet.bench.rows import Implementation, Row, Workload, has_diffusers, shape_text
from septet.random import Generators, PhiloxSeeds, randn_tensor

SHAPES = ((1, 3, 32, 32), (4, 3, 256, 256))
_SEED = 0


@dataclass(frozen=True)
class StepSpec:
    """One scheduler, at one step of a run.

    Attributes:
        name: For the table.
        scheduler: Class name, the same here and in diffusers.
        steps: Number of inference steps of the run.
        position: Which of its steps is timed.
        options: Keyword arguments of ``step``.
        noise: "none", "given" (``variance_noise``) or "drawn" (by a generator, in the step).
        has_history: Earlier outputs go into the step, so the run is made up to there first.
    """

    name: str
    scheduler: str
    steps: int
    position: int
    options: dict[str, Any] = field(default_factory=dict)
    noise: str = "none"
    has_history: bool = False


SPECS = (
    StepSpec("ddim", "DDIMScheduler", 50, 25),
    StepSpec("ddim_eta", "DDIMScheduler", 50, 25, {"eta": 1.0}, "given"),
    StepSpec("ddpm", "DDPMScheduler", 1000, 500, noise="drawn"),
    StepSpec("pndm", "PNDMScheduler", 50, 20, has_history=True),
)


def rows() -> list[Row]:
    """Return a row per scheduler and shape."""
    return [_row(spec, shape) for shape in SHAPES for spec in SPECS]


def _row(spec: StepSpec, shape: tuple[int, ...]) -> Row:
    facts = {
        "scheduler": spec.scheduler, "steps": spec.steps, "position": spec.position,
        **spec.options, "noise": spec.noise, "dtype": "float32", "shape": shape_text(shape),
    }  # fmt: skip
    name = f"{spec.name}.step/{shape_text(shape)}"
    return Row("ops", name, facts, lambda: _build(spec, shape))


@dataclass(frozen=True)
class _Tensors:
    """The arguments of a step; ``outputs`` are the model outputs of the run, by turns."""

    sample: Tensor
    outputs: tuple[Tensor, ...]
    noise: Tensor

    @classmethod
    def draw(cls, shape: tuple[int, ...]) -> _Tensors:
        generator = torch.Generator().manual_seed(_SEED)
        draws = [torch.randn(shape, generator=generator) for _ in range(6)]
        return cls(draws[0], tuple(draws[2:]), draws[1])

    def output(self, position: int) -> Tensor:
        """Return the model output of a step of the run."""
        return self.outputs[position % len(self.outputs)]


class _Stepper:
    """A scheduler that can take the same step again and again."""

    def __init__(
        self,
        spec: StepSpec,
        scheduler: Any,
        tensors: _Tensors,
        generator: Callable[[], Generators] | None,
    ) -> None:
        scheduler.set_timesteps(spec.steps)
        self._spec, self._scheduler, self._tensors = spec, scheduler, tensors
        self._arguments = dict(spec.options)
        if spec.noise == "given":
            self._arguments["variance_noise"] = tensors.noise
        if generator is not None:
            self._arguments["generator"] = generator()
        # as a loop over them would, so that taking one out is not part of the step
        self._timesteps = list(scheduler.timesteps)
        if spec.has_history:
            for position in range(spec.position):
                self._step(position)

    def _step(self, position: int) -> Any:
        output, sample = self._tensors.output(position), self._tensors.sample
        return self._scheduler.step(output, self._timesteps[position], sample, **self._arguments)

    def __call__(self) -> Any:
        if self._spec.has_history:
            self._scheduler.counter = self._spec.position  # or it would run off the end
        return self._step(self._spec.position)


def _build(spec: StepSpec, shape: tuple[int, ...]) -> Workload:
    tensors = _Tensors.draw(shape)
    seeded = _torch_generator if spec.noise == "drawn" else None
    own = getattr(schedulers, spec.scheduler)
    make = functools.partial(_implementation, spec, tensors)
    found = []
    if has_diffusers():
        peer = getattr(importlib.import_module("diffusers"), spec.scheduler)
        found.append(make("diffusers", peer, seeded, is_baseline=True))
    found.append(make("eager", own, seeded, is_baseline=True, backend="eager"))
    found.append(make("septet", own, seeded))
    if spec.noise == "drawn":
        philox = functools.partial(PhiloxSeeds, range(shape[0]))
        found.append(make("septet (Philox)", own, philox))
    num_bytes = tensors.sample.nbytes * _tensors_moved(spec)
    return Workload(tuple(found), "the same step in float64", num_bytes)


def _tensors_moved(spec: StepSpec) -> int:
    """Count the tensors that a step reads and writes: sample, output, result and more."""
    return 3 + 3 * spec.has_history + (spec.noise == "given")  # three earlier outputs are read


def _torch_generator() -> torch.Generator:
    return torch.Generator().manual_seed(_SEED)


def _implementation(
    spec: StepSpec,
    tensors: _Tensors,
    name: str,
    scheduler: Callable[[], Any],
    generator: Callable[[], Generators] | None,
    is_baseline: bool = False,
    backend: str = "fused",
) -> Implementation:
    def with_backend(function: Callable[[], Any]) -> Any:
        with use_backend(backend):
            return function()

    def result() -> list[Tensor]:
        output = with_backend(_Stepper(spec, scheduler(), tensors, generator))
        kept = (output.prev_sample, getattr(output, "pred_original_sample", None))
        return [tensor for tensor in kept if tensor is not None]

    # made here, with its history, so that the step alone is timed
    call = with_backend(lambda: _Stepper(spec, scheduler(), tensors, generator))
    if backend != "fused":
        call = functools.partial(with_backend, call)
    exact = functools.partial(_exact, spec, tensors, generator)
    return Implementation(name, call, result, exact, is_baseline)


def _exact(
    spec: StepSpec, tensors: _Tensors, generator: Callable[[], Generators] | None
) -> list[Tensor]:
    """Compute the step in float64, in plain torch, with the noise drawn in float32 as above."""
    scheduler = getattr(schedulers, spec.scheduler)()
    scheduler.set_timesteps(spec.steps)
    table = scheduler.table(**spec.options)
    noise = tensors.noise
    if generator is not None:
        noise = randn_tensor(noise.shape, generator(), dtype=noise.dtype)
    sample = tensors.sample.double()
    slots = table.new_slots(sample)
    with use_backend("eager"):
        for row in range(0 if spec.has_history else spec.position, spec.position + 1):
            output = tensors.output(row).double()
            result = ops.step(
                sample, output, table.on(sample), row,
                pred_original_sample=True, noise=noise.double(), slots=slots,
            )  # fmt: skip
    return list(result)[: 1 if spec.has_history else 2]
