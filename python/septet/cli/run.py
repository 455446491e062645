"""``septet run``: images from a checkpoint folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from septet import pipelines
from septet.cli.files import grid, save_png
from septet.cli.main import UsageError
from septet.errors import CheckpointError
from septet.pipelines.output import to_pil

_PIPELINES = {
    "ddpm": pipelines.DDPMPipeline,
    "ddim": pipelines.DDIMPipeline,
    "pndm": pipelines.PNDMPipeline,
}


def run_checkpoint(arguments: argparse.Namespace) -> None:
    """Load, sample and write; see ``septet run --help``.

    Raises:
        UsageError: If the arguments do not suit the checkpoint.
        CheckpointError: If the checkpoint cannot be read.
        OSError: If a picture cannot be written.
    """
    chosen: Any = _PIPELINES.get(arguments.scheduler, pipelines.DiffusionPipeline)
    dtype = getattr(torch, arguments.dtype)
    try:
        pipe = chosen.from_pretrained(arguments.model, dtype=dtype, variant=arguments.variant)
        pipe.to(arguments.device)
        images = pipe(**_call_arguments(arguments, pipe), output_type="np").images
    except CheckpointError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    write_images(images, arguments.output)


def _call_arguments(arguments: argparse.Namespace, pipe: Any) -> dict[str, Any]:
    call: dict[str, Any] = {
        "batch_size": arguments.batch,
        "generator": torch.Generator().manual_seed(arguments.seed),
    }
    if arguments.steps is not None:
        call["num_inference_steps"] = arguments.steps
    if arguments.eta is not None:
        if not isinstance(pipe, pipelines.DDIMPipeline):
            raise ValueError("--eta needs --scheduler ddim: no other sampler has it")
        call["eta"] = arguments.eta
    return call


def write_images(images: np.ndarray, output: Path) -> None:
    """Write ``[N, H, W, C]`` images in [0, 1] as one .png file, or as files in a folder."""
    if output.suffix.lower() == ".png":
        pixels = images if len(images) == 1 else grid(images)
        targets = [output]
    else:
        pixels = images
        targets = [output / f"{index:04}.png" for index in range(len(images))]
    for image, path in zip(to_pil(pixels), targets, strict=True):
        save_png(image, path)
        print(path)
