"""Sampling for seven diffusion pipelines, with every sampler step as one fused operator.

Names are imported when they are first used, so ``import septet`` costs little more than
``import torch``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from septet.backend import use_backend
    from septet.errors import CheckpointError, LibraryError
    from septet.models import (
        AutoencoderKL,
        DiffWaveModel,
        GlideSuperResolutionUNet,
        GlideTextToImageUNet,
        GradTTSTextEncoder,
        HiFiGANModel,
        LDMBertModel,
        UNet2DConditionModel,
        UNet2DModel,
        UNetGradTTSModel,
        VQModel,
    )
    from septet.pipelines import (
        AudioPipelineOutput,
        BDDMPipeline,
        DDIMPipeline,
        DDPMPipeline,
        DiffusionPipeline,
        GLIDEPipeline,
        GradTTSPipeline,
        GradTTSPipelineOutput,
        ImagePipelineOutput,
        LatentDiffusionPipeline,
        LDMPipeline,
        LDMTextToImagePipeline,
        PNDMPipeline,
    )
    from septet.random import PhiloxSeeds, randn_tensor
    from septet.sampling import SamplingLoop
    from septet.schedulers import (
        BDDMScheduler,
        DDIMScheduler,
        DDPMScheduler,
        GLIDEScheduler,
        GradTTSScheduler,
        PNDMScheduler,
        SchedulerOutput,
        StepTable,
    )
    from septet.text import GradTTSTokenizer

__version__ = "0.1.0"

_EXPORTS = {
    "AutoencoderKL": "septet.models",
    "AudioPipelineOutput": "septet.pipelines",
    "BDDMPipeline": "septet.pipelines",
    "BDDMScheduler": "septet.schedulers",
    "CheckpointError": "septet.errors",
    "DDIMPipeline": "septet.pipelines",
    "DDIMScheduler": "septet.schedulers",
    "DDPMPipeline": "septet.pipelines",
    "DDPMScheduler": "septet.schedulers",
    "DiffWaveModel": "septet.models",
    "DiffusionPipeline": "septet.pipelines",
    "GLIDEPipeline": "septet.pipelines",
    "GLIDEScheduler": "septet.schedulers",
    "GlideSuperResolutionUNet": "septet.models",
    "GlideTextToImageUNet": "septet.models",
    "GradTTSPipeline": "septet.pipelines",
    "GradTTSPipelineOutput": "septet.pipelines",
    "GradTTSScheduler": "septet.schedulers",
    "GradTTSTextEncoder": "septet.models",
    "GradTTSTokenizer": "septet.text",
    "HiFiGANModel": "septet.models",
    "ImagePipelineOutput": "septet.pipelines",
    "LDMBertModel": "septet.models",
    "LDMPipeline": "septet.pipelines",
    "LDMTextToImagePipeline": "septet.pipelines",
    "LatentDiffusionPipeline": "septet.pipelines",
    "LibraryError": "septet.errors",
    "PNDMPipeline": "septet.pipelines",
    "PNDMScheduler": "septet.schedulers",
    "PhiloxSeeds": "septet.random",
    "SamplingLoop": "septet.sampling",
    "SchedulerOutput": "septet.schedulers",
    "StepTable": "septet.schedulers",
    "UNet2DConditionModel": "septet.models",
    "UNet2DModel": "septet.models",
    "VQModel": "septet.models",
    "UNetGradTTSModel": "septet.models",
    "randn_tensor": "septet.random",
    "use_backend": "septet.backend",
}

__all__ = [
    "AudioPipelineOutput",
    "AutoencoderKL",
    "BDDMPipeline",
    "BDDMScheduler",
    "CheckpointError",
    "DDIMPipeline",
    "DDIMScheduler",
    "DDPMPipeline",
    "DDPMScheduler",
    "DiffWaveModel",
    "DiffusionPipeline",
    "GLIDEPipeline",
    "GLIDEScheduler",
    "GlideSuperResolutionUNet",
    "GlideTextToImageUNet",
    "GradTTSPipeline",
    "GradTTSPipelineOutput",
    "GradTTSScheduler",
    "GradTTSTextEncoder",
    "GradTTSTokenizer",
    "HiFiGANModel",
    "ImagePipelineOutput",
    "LDMBertModel",
    "LDMPipeline",
    "LDMTextToImagePipeline",
    "LatentDiffusionPipeline",
    "LibraryError",
    "PNDMPipeline",
    "PNDMScheduler",
    "PhiloxSeeds",
    "SamplingLoop",
    "SchedulerOutput",
    "StepTable",
    "UNet2DConditionModel",
    "UNet2DModel",
    "UNetGradTTSModel",
    "VQModel",
    "randn_tensor",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    """Import an exported name on first use (PEP 562)."""
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'septet' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the exported names, imported or not."""
    return sorted({*globals(), *__all__})
