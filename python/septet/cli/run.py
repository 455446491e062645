"""``septet run``: images or speech from a checkpoint folder."""

from __future__ import annotations

import argparse
import inspect
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from septet import pipelines, schedulers
from septet.cli.files import grid, save_png
from septet.cli.main import UsageError
from septet.cli.speech import VOICE_OPTIONS, save_speech, voice_folder
from septet.errors import CheckpointError
from septet.pipelines import vocoding
from septet.pipelines.output import to_pil

_UNCONDITIONAL = {
    "ddpm": pipelines.DDPMPipeline,
    "ddim": pipelines.DDIMPipeline,
    "pndm": pipelines.PNDMPipeline,
}
_SCHEDULERS: dict[str, type[schedulers.Scheduler]] = {
    "ddpm": schedulers.DDPMScheduler,
    "ddim": schedulers.DDIMScheduler,
    "pndm": schedulers.PNDMScheduler,
}
#: What a pipeline calls the value of an option.
_OPTIONS = {
    "prompt": "prompt",
    "temperature": "temperature",
    "length_scale": "length_scale",
    "negative_prompt": "negative_prompt",
    "guidance_scale": "guidance_scale",
    "height": "height",
    "width": "width",
    "steps": "num_inference_steps",
    "eta": "eta",
}


def run_checkpoint(arguments: argparse.Namespace) -> None:
    """Load, sample and write; see ``septet run --help``.

    Raises:
        UsageError: If the arguments do not suit the checkpoint.
        CheckpointError: If the checkpoint cannot be read.
        OSError: If a picture cannot be written.
    """
    try:
        pipe = _load(arguments)
        pipe.to(arguments.device)
        if isinstance(pipe, pipelines.GradTTSPipeline):
            speak(arguments, pipe)
            return
        images = pipe(**_call_arguments(arguments, pipe), output_type="np").images
    except CheckpointError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    write_images(images, arguments.output)


def _load(arguments: argparse.Namespace) -> Any:
    """Load the pipeline, with the sampler that was asked for."""
    folder = arguments.model
    if folder is None:
        if arguments.text is not None:
            folder = voice_folder("grad_tts")
        elif arguments.prompt is not None:
            folder = Path(str(resources.files("septet") / "assets" / "emoji"))
        else:
            raise UsageError(
                "--model is needed; only --prompt and --text work without, on the demo's emoji "
                "and voice"
            )
    options = {"dtype": getattr(torch, arguments.dtype), "variant": arguments.variant}
    pipe: Any = pipelines.DiffusionPipeline.from_pretrained(folder, **options)
    if isinstance(pipe, pipelines.GradTTSPipeline):
        pipe.vocoder = _vocoder(arguments, pipe)
    elif arguments.text is not None or arguments.vocoder is not None:
        flag = "text" if arguments.text is not None else "vocoder"
        raise UsageError(f"--{flag} does not go with a {type(pipe).__name__}")
    wanted = arguments.scheduler
    if wanted is None:
        return pipe
    if isinstance(pipe, pipelines.DDPMPipeline | pipelines.DDIMPipeline | pipelines.PNDMPipeline):
        return _UNCONDITIONAL[wanted](pipe.unet, pipe.scheduler)
    if not isinstance(pipe, pipelines.LatentDiffusionPipeline | pipelines.LDMPipeline):
        raise UsageError(f"--scheduler does not go with a {type(pipe).__name__}: it has its own")
    pipe.scheduler = _SCHEDULERS[wanted].from_config(pipe.scheduler.config)
    return pipe


def _vocoder(arguments: argparse.Namespace, pipe: pipelines.GradTTSPipeline) -> Any:
    """Load the vocoder that was asked for, else the checkpoint's, else that of the demo's voice."""
    folder = arguments.vocoder
    if folder is None:
        if pipe.vocoder is not None:
            return pipe.vocoder
        if arguments.model is not None:
            raise UsageError("--vocoder is needed: the checkpoint makes spectrograms only")
        folder = voice_folder("vocoder")
    vocoder = pipelines.DiffusionPipeline.from_pretrained(
        folder, dtype=getattr(torch, arguments.dtype)
    )
    if not isinstance(vocoder, pipelines.BDDMPipeline):
        kind = type(vocoder).__name__
        raise UsageError(f"--vocoder must be a folder of a BDDMPipeline, got a {kind}")
    vocoding.check_vocoder(vocoder, pipe.unet.config.n_feats)
    return vocoder


def speak(arguments: argparse.Namespace, pipe: pipelines.GradTTSPipeline) -> None:
    """Say ``--text`` as often as ``--batch`` says, and write sounds and pictures.

    Raises:
        UsageError: If there is no text.
        ValueError: If an argument makes no sense.
        OSError: If a file cannot be written.
    """
    if arguments.text is None:
        raise UsageError(f"--text is needed: the checkpoint is a {type(pipe).__name__}")
    call = {} if arguments.model is not None else dict(VOICE_OPTIONS)
    call |= _call_arguments(arguments, pipe)
    texts = [arguments.text] * arguments.batch
    output = pipe(texts, **call)
    for path in save_speech(pipe, texts, output, arguments.output):
        print(path)


def _call_arguments(arguments: argparse.Namespace, pipe: Any) -> dict[str, Any]:
    known = inspect.signature(pipe.__call__).parameters
    if "prompt" in known and arguments.prompt is None:
        raise UsageError(f"--prompt is needed: the checkpoint is a {type(pipe).__name__}")
    call: dict[str, Any] = {"generator": torch.Generator().manual_seed(arguments.seed)}
    for count in ("num_images_per_prompt", "batch_size"):
        if count in known:
            call[count] = arguments.batch
    for option, name in _OPTIONS.items():
        value = getattr(arguments, option)
        if value is None:
            continue
        if name not in known:
            flag = option.replace("_", "-")
            raise UsageError(f"--{flag} does not go with a {type(pipe).__name__}")
        call[name] = value
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
