"""The pipelines: networks, a scheduler and the sampling loop put together."""

from septet.pipelines.audio_output import AudioPipelineOutput
from septet.pipelines.base import DiffusionPipeline
from septet.pipelines.bddm import BDDMPipeline
from septet.pipelines.ddim import DDIMPipeline
from septet.pipelines.ddpm import DDPMPipeline
from septet.pipelines.glide import GLIDEPipeline
from septet.pipelines.grad_tts import GradTTSPipeline, GradTTSPipelineOutput
from septet.pipelines.latent_diffusion import LatentDiffusionPipeline, LDMTextToImagePipeline
from septet.pipelines.latent_unconditional import LDMPipeline
from septet.pipelines.output import ImagePipelineOutput
from septet.pipelines.pndm import PNDMPipeline

__all__ = [
    "AudioPipelineOutput",
    "BDDMPipeline",
    "DDIMPipeline",
    "DDPMPipeline",
    "DiffusionPipeline",
    "GLIDEPipeline",
    "GradTTSPipeline",
    "GradTTSPipelineOutput",
    "ImagePipelineOutput",
    "LDMPipeline",
    "LDMTextToImagePipeline",
    "LatentDiffusionPipeline",
    "PNDMPipeline",
]
