"""Whole calls of pipelines, from the arguments to the pictures, beside those of diffusers."""

from __future__ import annotations

import functools
import pkgutil
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.bench.model_rows import DDPM_CIFAR10
from septet.bench.rows import LAYOUTS, Candidate, Loaded, Row, SeparateWorkload, no_diffusers
from septet.models import UNet2DModel
from septet.schedulers import DDPMScheduler

_STEPS = 10
_SEED = 0


@dataclass(frozen=True)
class PipelineSpec:
    """One call of a pipeline; it can be pickled.

    Attributes:
        kind: The pipeline's class, of the same name in septet and diffusers.
        model: "digits" or "emoji", which come with septet, or "ddpm-cifar10" with random weights.
        options: What it is called with, besides the number of steps.
        config: The network of a model that does not come with septet.
    """

    kind: str
    model: str
    options: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As the tables have it."""
        count = self.options.get("batch_size") or len(self.options["prompt"])
        kind = self.kind.removesuffix("Pipeline").removesuffix("TextToImage").lower()
        return f"{kind}.run/{self.model}/{count}x/{_STEPS}-steps"


_UNCONDITIONAL = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
SPECS = (
    *(PipelineSpec(kind, "digits", {"batch_size": 1}) for kind in _UNCONDITIONAL),
    PipelineSpec("DDIMPipeline", "digits", {"batch_size": 16}),
    *(
        PipelineSpec(kind, "ddpm-cifar10", {"batch_size": 1}, DDPM_CIFAR10)
        for kind in _UNCONDITIONAL
    ),
    PipelineSpec(
        "LDMTextToImagePipeline", "emoji", {"prompt": ["red apple"], "guidance_scale": 4.0}
    ),
)


def rows() -> list[Row]:
    """Return a row per pipeline and model."""
    return [_row(spec) for spec in SPECS]


def _row(spec: PipelineSpec) -> Row:
    weights = "random" if spec.config else "of the demo"
    facts = {
        "pipeline": spec.kind, "model": spec.model, "weights": weights, "dtype": "float32",
        "steps": _STEPS, **spec.options,
    }  # fmt: skip
    return Row("pipelines", spec.name, facts, functools.partial(build, spec), no_diffusers)


def build(spec: PipelineSpec) -> SeparateWorkload:
    """List the candidates; nothing is allocated."""
    found = [
        Candidate(
            f"{library} ({layout})" if library == "diffusers" else library,
            functools.partial(_load, spec, library, layout),
            is_baseline=library == "diffusers",
            imports=(f"{library}:{spec.kind}",),
        )
        for library, layout in (*(("diffusers", layout) for layout in LAYOUTS), ("septet", ""))
    ]
    return SeparateWorkload(
        tuple(found),
        functools.partial(write_pipeline, spec),
        "the pipeline of diffusers in float32",
        stay=True,
    )


def asset(name: str) -> Path:
    """Return the folder of a checkpoint that comes with septet."""
    return Path(str(resources.files("septet") / "assets" / name))


def write_pipeline(spec: PipelineSpec, folder: Path) -> None:
    """Save the pipeline as both read it."""
    kind: Any = pkgutil.resolve_name(f"septet:{spec.kind}")
    if spec.config:
        torch.manual_seed(_SEED)
        pipeline = kind(UNet2DModel(**spec.config), DDPMScheduler())
    else:
        pipeline = kind.from_pretrained(asset(spec.model))
    pipeline.save_pretrained(folder)


def _load(spec: PipelineSpec, library: str, layout: str, folder: Path) -> Loaded:
    if library == "diffusers":
        logging: Any = pkgutil.resolve_name("diffusers.utils:logging")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    kind: Any = pkgutil.resolve_name(f"{library}:{spec.kind}")
    pipeline = kind.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    if layout:
        for name in {"unet", "vqvae"} & set(pipeline.components):
            getattr(pipeline, name).to(memory_format=LAYOUTS[layout])

    def call() -> list[Tensor]:
        generator = torch.Generator().manual_seed(_SEED)
        result = pipeline(
            num_inference_steps=_STEPS, generator=generator, output_type="np", **spec.options
        )
        return [torch.from_numpy(result.images)]

    return Loaded(call, call)
