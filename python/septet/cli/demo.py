"""``septet demo``: digits from all three samplers, judged against real ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.cli.files import grid, save_png
from septet.cli.judge import JudgeReport, enlarge, judge, load_digits
from septet.pipelines import DDIMPipeline, DDPMPipeline, PNDMPipeline
from septet.pipelines.output import to_pil

#: A sampler passes with this fraction of the share recognised among real digits.
PASS_MARK = 0.9
#: From this many digits on, every class must occur.
ENOUGH_FOR_ALL_CLASSES = 100
_SCALE = 4
_FEW_STEPS = 50


@dataclass(frozen=True)
class Outcome:
    """One sampler's digits and how they were judged.

    Attributes:
        name: Of the sampler.
        steps: Number of inference steps.
        seconds: Wall time of sampling.
        images: ``[N, 1, H, W]`` in [0, 1].
        report: The judgement.
    """

    name: str
    steps: int
    seconds: float
    images: Tensor
    report: JudgeReport

    def failures(self) -> list[str]:
        """Say what is wrong with the digits."""
        found = []
        if self.report.relative < PASS_MARK:
            found.append(
                f"{self.name}: only {self.report.recognised:.1%} recognised, real digits "
                f"{self.report.heldout_recognised:.1%}"
            )
        missing = [digit for digit, count in enumerate(self.report.class_counts) if not count]
        if missing and len(self.images) >= ENOUGH_FOR_ALL_CLASSES:
            found.append(f"{self.name}: no {', '.join(map(str, missing))} among the digits")
        return found


def run_demo(
    output: Path,
    *,
    batch_size: int = 100,
    seed: int = 0,
    checkpoint: Path | None = None,
    ddpm_steps: int = 1000,
) -> int:
    """Sample, write the pictures, print the table.

    Args:
        output: Folder for ``ddpm.png``, ``ddim.png``, ``pndm.png`` and ``real.png``.
        batch_size: Digits per sampler.
        seed: Of the noise; every sampler starts from the same.
        checkpoint: Folder of another digits checkpoint than the one that comes with septet.
        ddpm_steps: Number of DDPM steps.

    Returns:
        0 if every sampler makes digits almost as recognisable as real ones, else 1.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        OSError: If a picture cannot be written.
    """
    folder = checkpoint or Path(str(resources.files("septet") / "assets" / "digits"))
    pipeline = DDPMPipeline.from_pretrained(folder)
    print(_row("", "steps", "seconds", "images/s", "recognised", "classes", "nearest"))
    failures: list[str] = []
    for outcome in _sample(pipeline, batch_size, seed, ddpm_steps):
        report = outcome.report
        print(
            _row(
                outcome.name,
                outcome.steps,
                f"{outcome.seconds:.1f}",
                f"{batch_size / outcome.seconds:.1f}",
                f"{report.recognised:.1%}",
                f"{sum(map(bool, report.class_counts))}/10",
                f"{report.nearest_distance:.3f}",
            ),
            flush=True,
        )
        _save_grid(outcome.images, output / f"{outcome.name.lower()}.png")
        failures += outcome.failures()
    share, nearest = report.heldout_recognised, report.heldout_nearest_distance
    print(_row("real digits", "", "", "", f"{share:.1%}", "10/10", f"{nearest:.3f}"))
    digits = load_digits()
    _save_grid(enlarge(digits.pixels[~digits.is_train][:batch_size]), output / "real.png")
    print(f"pictures: {output}/{{ddpm,ddim,pndm,real}}.png")
    for failure in failures:
        print(f"septet: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _sample(
    pipeline: DDPMPipeline, batch_size: int, seed: int, ddpm_steps: int
) -> Iterator[Outcome]:
    """Run the three samplers on one network, one after the other."""
    unet, scheduler = pipeline.unet, pipeline.scheduler
    runs: tuple[tuple[str, int, Any], ...] = (
        ("DDPM", ddpm_steps, pipeline),
        ("DDIM", _FEW_STEPS, DDIMPipeline(unet, scheduler)),
        ("PNDM", _FEW_STEPS, PNDMPipeline(unet, scheduler)),
    )
    for name, steps, pipe in runs:
        started = time.perf_counter()
        images = pipe(
            batch_size=batch_size,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        ).images
        seconds = time.perf_counter() - started
        yield Outcome(name, steps, seconds, images, judge(images.numpy()))


def _row(name: str, *cells: object) -> str:
    """Lay out one line of the table."""
    widths = (6, 9, 10, 12, 9, 9)
    return f"{name:12}" + "".join(f"{cell!s:>{w}}" for cell, w in zip(cells, widths, strict=True))


def _save_grid(images: Tensor, path: Path) -> None:
    """Write ``[N, 1, H, W]`` images in [0, 1] as one picture that is large enough to look at."""
    save_png(to_pil(grid(images.permute(0, 2, 3, 1).numpy(), _SCALE))[0], path)
