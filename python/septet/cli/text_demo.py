"""The text-to-image part of ``septet demo``: emoji, judged by whether their captions fit."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from septet.cli.emoji_judge import load_emoji, share_recognised
from septet.cli.files import Pixels, captioned_grid, save_png
from septet.pipelines import DiffusionPipeline

#: The share of the 50 captions that must be among the first five for their picture; by chance it
#: is a tenth.
PASS_MARK = 0.6


@dataclass(frozen=True)
class TextDemo:
    """A text-to-image checkpoint that comes with septet.

    Attributes:
        name: As it is called in the table.
        folder: The checkpoint's, among the assets.
        steps: Number of inference steps, as the table shows it.
        call: How its pipeline is called.
    """

    name: str
    folder: str
    steps: str
    call: Mapping[str, Any]


TEXT_DEMOS: tuple[TextDemo, ...] = (
    TextDemo(
        name="Latent Diffusion",
        folder="emoji",
        steps="25",
        call={"num_inference_steps": 25, "guidance_scale": 4.0},
    ),
    TextDemo(
        name="GLIDE",
        folder="glide",
        steps="50+8",
        call={
            "num_inference_steps": 50,
            "num_inference_steps_upscale": 8,
            "guidance_scale": 4.0,
            "upsample_temp": 0.8,
        },
    ),
)


def run_text_demos(output: Path, *, seed: int = 0, demos: Sequence[TextDemo] = TEXT_DEMOS) -> int:
    """Draw the judge's 50 prompts with every checkpoint, write the pictures, print the table.

    Args:
        output: Folder for one captioned picture per checkpoint, ``<folder>.png``.
        seed: Of the noise.
        demos: The checkpoints.

    Returns:
        0 if with every checkpoint enough pictures are recognised, else 1.

    Raises:
        CheckpointError: If a checkpoint cannot be read.
        OSError: If a picture cannot be written.
    """
    prompts = load_emoji().prompts
    print(_row("", "steps", "seconds", "images/s", "top 5 of 50"))
    failures: list[str] = []
    for demo in demos:
        pipe = load_asset(demo.folder)
        started = time.perf_counter()
        pixels = draw(pipe, prompts, seed, **demo.call)
        seconds = time.perf_counter() - started
        share = share_recognised(pixels.transpose(0, 3, 1, 2), prompts)
        rate = len(prompts) / seconds
        row = _row(demo.name, demo.steps, f"{seconds:.1f}", f"{rate:.1f}", f"{share:.0%}")
        print(row, flush=True)
        save_png(captioned_grid(pixels, prompts), output / f"{demo.folder}.png")
        if share < PASS_MARK:
            failures.append(f"{demo.name}: only {share:.0%} of the emoji are recognised")
    print("pictures:", *(output / f"{demo.folder}.png" for demo in demos))
    for failure in failures:
        print(f"septet: {failure}", file=sys.stderr)
    return 1 if failures else 0


def load_asset(folder: str) -> Any:
    """Load the pipeline of a checkpoint that comes with septet, in float32 and silent."""
    path = Path(str(resources.files("septet") / "assets" / folder))
    pipe = DiffusionPipeline.from_pretrained(path, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, prompts: Sequence[str], seed: int, **call: Any) -> Pixels:
    """Draw one picture per prompt, ``[N, H, W, 3]`` in [0, 1].

    Args:
        pipe: A text-to-image pipeline.
        prompts: What to draw.
        seed: Of the noise.
        **call: Other arguments of the pipeline.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels: Pixels = pipe(list(prompts), generator=generator, output_type="np", **call).images
    return pixels


def _row(name: str, *cells: object) -> str:
    """Lay out one line of the table."""
    widths = (6, 9, 10, 14)
    return f"{name:18}" + "".join(f"{cell!s:>{w}}" for cell, w in zip(cells, widths, strict=True))
