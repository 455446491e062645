"""What classes and components were called in the diffusers releases of 2022.

A name from a file is replaced by the entry here, if there is one, before it is looked up in the
tables of supported classes. Neither decides what gets imported.
"""

from __future__ import annotations

PIPELINE_ALIASES = {
    "DDPM": "DDPMPipeline",
    "DDIM": "DDIMPipeline",
    "PNDM": "PNDMPipeline",
    "LatentDiffusion": "LDMTextToImagePipeline",
    "LatentDiffusionPipeline": "LDMTextToImagePipeline",
    "StableDiffusionPipeline": "LDMTextToImagePipeline",
    "LatentDiffusionUncondPipeline": "LDMPipeline",
    "GLIDE": "GLIDEPipeline",
    "Glide": "GLIDEPipeline",
    "GlidePipeline": "GLIDEPipeline",
    "BDDM": "BDDMPipeline",
    "GradTTS": "GradTTSPipeline",
}
MODEL_ALIASES = {
    "DiffWave": "DiffWaveModel",
    "UNetModel": "UNet2DModel",
    "UNetUnconditionalModel": "UNet2DModel",
    "UNetLDMModel": "UNet2DConditionModel",
    "UNetConditionalModel": "UNet2DConditionModel",
    "GLIDETextToImageUNetModel": "GlideTextToImageUNet",
    "GlideTextToImageUNetModel": "GlideTextToImageUNet",
    "GLIDESuperResUNetModel": "GlideSuperResolutionUNet",
    "GlideSuperResUNetModel": "GlideSuperResolutionUNet",
    "TextEncoder": "GradTTSTextEncoder",
}
SCHEDULER_ALIASES = {
    "GaussianDDPMScheduler": "DDPMScheduler",
    "ClassifierFreeGuidanceScheduler": "GLIDEScheduler",
}
TOKENIZER_ALIASES = {"GPT2Tokenizer": "GlideTokenizer"}
COMPONENT_ALIASES = {
    "noise_scheduler": "scheduler",
    "text_noise_scheduler": "text_scheduler",
    "upscale_noise_scheduler": "upscale_scheduler",
}
