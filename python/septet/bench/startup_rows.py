"""How long a user waits for the first result, from the start of the process."""

from __future__ import annotations

import functools

from septet.bench.model_rows import SPECS, write_weights
from septet.bench.pipeline_rows import PipelineSpec, write_pipeline
from septet.bench.rows import Program, Row, StartWorkload, no_diffusers, shape_text

_IMAGE = """\
import torch
from {library} import DDIMPipeline

pipeline = DDIMPipeline.from_pretrained(folder)
pipeline.set_progress_bar_config(disable=True)
generator = torch.Generator().manual_seed(0)
result = pipeline(generator=generator, num_inference_steps=10).images[0]
"""
_STEP = """\
import torch
from {library} import UNet2DModel

unet = UNet2DModel.from_pretrained(folder)
sample = torch.ones({shape})
with torch.no_grad():
    result = unet(sample, 500).sample
"""
_DIGITS = PipelineSpec("DDIMPipeline", "digits", {"batch_size": 1})
_CIFAR10 = SPECS[0]


def rows() -> list[Row]:
    """Return a row per kind of result."""
    step = f"first-step/{_CIFAR10.name}/{shape_text(_CIFAR10.shape)}"
    return [
        _row("first-image/digits/10-steps", "digits", _IMAGE, functools.partial(
            write_pipeline, _DIGITS)),
        _row(step, _CIFAR10.name, _STEP.replace("{shape}", str(_CIFAR10.shape)), functools.partial(
            write_weights, _CIFAR10)),
    ]  # fmt: skip


def _row(name: str, model: str, source: str, write: functools.partial[None]) -> Row:
    programs = tuple(
        Program(library, source.replace("{library}", library), library == "diffusers")
        for library in ("diffusers", "septet")
    )
    workload = StartWorkload(programs, write, "import torch", "diffusers in float32")
    facts = {"model": model, "dtype": "float32", "beyond": workload.common}
    return Row("startup", name, facts, lambda: workload, no_diffusers)
