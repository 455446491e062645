"""All steps of a run through ``scheduler.step``, each candidate in a process of its own.

Where diffusers and septet take turns in one process, each finds memory that the other has just
given back. Here each lives with what it allocates and drops itself, step after step.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet import schedulers
from septet.bench.rows import Candidate, Loaded, Row, SeparateWorkload, no_diffusers, shape_text
from septet.bench.scheduler_rows import SHAPES

#: Schedulers and how many steps a run has.
SPECS = (("DDIMScheduler", 50), ("PNDMScheduler", 50), ("DDPMScheduler", 1000))
# A run may be longer, but this many steps of it are enough.
_STEPS = 50
_SEED = 0


def rows() -> list[Row]:
    """Return a row per scheduler and shape."""
    return [_row(name, steps, shape) for shape in SHAPES for name, steps in SPECS]


def _row(scheduler: str, steps: int, shape: tuple[int, ...]) -> Row:
    facts = {
        "scheduler": scheduler, "steps": steps, "dtype": "float32", "shape": shape_text(shape),
    }  # fmt: skip
    name = f"{scheduler.removesuffix('Scheduler').lower()}.loop/{shape_text(shape)}"
    return Row("ops", name, facts, lambda: _build(scheduler, steps, shape), no_diffusers)


def _build(scheduler: str, steps: int, shape: tuple[int, ...]) -> SeparateWorkload:
    candidates = tuple(
        Candidate(
            package,
            functools.partial(_load, package, scheduler, steps, shape),
            is_baseline=package == "diffusers",
            steps=_STEPS,
        )
        for package in ("diffusers", "septet")
    )
    return SeparateWorkload(candidates, _write_nothing, "diffusers", stay=True)


def _write_nothing(folder: Path) -> None:
    """Schedulers have no weights."""


def _load(package: str, name: str, steps: int, shape: tuple[int, ...], folder: Path) -> Loaded:
    module = schedulers if package == "septet" else importlib.import_module(package)
    run = _loop(getattr(module, name)(), steps, shape)
    return Loaded(run, lambda: [run()])


def _loop(scheduler: Any, steps: int, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(_SEED)
    start, *outputs = (torch.randn(shape, generator=generator) for _ in range(4))
    scheduler.set_timesteps(steps)
    timesteps = list(scheduler.timesteps)[:_STEPS]
    takes_noise = type(scheduler).__name__ == "DDPMScheduler"

    def run() -> Tensor:
        scheduler.set_timesteps(steps)
        drawn = {"generator": torch.Generator().manual_seed(_SEED)} if takes_noise else {}
        sample = start
        for position, timestep in enumerate(timesteps):
            output = outputs[position % len(outputs)]
            sample = scheduler.step(output, timestep, sample, **drawn).prev_sample
        return sample

    return run
