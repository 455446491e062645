"""The networks, with the state-dict and configuration keys of the published checkpoints."""

from septet.models.autoencoder import DecoderOutput
from septet.models.autoencoder_config import AutoencoderKLConfig, VQConfig
from septet.models.autoencoder_kl import AutoencoderKL, AutoencoderKLOutput
from septet.models.base import PretrainedModel
from septet.models.config import FrozenConfig, ModelConfig
from septet.models.diffwave import DiffWaveModel, DiffWaveOutput, PreparedDiffWave
from septet.models.diffwave_config import DiffWaveConfig
from septet.models.galr import GALRConfig, GALRModel
from septet.models.gaussian import DiagonalGaussianDistribution
from septet.models.glide import GlideSuperResolutionUNet, GlideTextToImageUNet
from septet.models.glide_config import GlideSuperResolutionConfig, GlideTextToImageConfig
from septet.models.grad_tts_config import GradTTSTextEncoderConfig, UNetGradTTSConfig
from septet.models.grad_tts_text_encoder import GradTTSTextEncoder, GradTTSTextEncoderOutput
from septet.models.grad_tts_unet import PreparedUNetGradTTS, UNetGradTTSModel
from septet.models.hifigan import HiFiGANConfig, HiFiGANModel
from septet.models.ldm_bert import LDMBertModel, LDMBertOutput
from septet.models.ldm_bert_config import LDMBertConfig
from septet.models.unet_2d import PreparedUNet2D, UNet2DModel, UNet2DOutput
from septet.models.unet_2d_condition import (
    PreparedUNet2DCondition,
    UNet2DConditionModel,
    UNet2DConditionOutput,
)
from septet.models.unet_2d_condition_config import UNet2DConditionConfig
from septet.models.unet_2d_config import UNet2DConfig
from septet.models.vq_model import VQEncoderOutput, VQModel

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLConfig",
    "AutoencoderKLOutput",
    "DecoderOutput",
    "DiagonalGaussianDistribution",
    "DiffWaveConfig",
    "DiffWaveModel",
    "DiffWaveOutput",
    "FrozenConfig",
    "GALRConfig",
    "GALRModel",
    "GlideSuperResolutionConfig",
    "GlideSuperResolutionUNet",
    "GlideTextToImageConfig",
    "GlideTextToImageUNet",
    "GradTTSTextEncoder",
    "GradTTSTextEncoderConfig",
    "GradTTSTextEncoderOutput",
    "HiFiGANConfig",
    "HiFiGANModel",
    "LDMBertConfig",
    "LDMBertModel",
    "LDMBertOutput",
    "ModelConfig",
    "PreparedDiffWave",
    "PreparedUNet2D",
    "PreparedUNet2DCondition",
    "PreparedUNetGradTTS",
    "PretrainedModel",
    "UNet2DConditionConfig",
    "UNet2DConditionModel",
    "UNet2DConditionOutput",
    "UNet2DConfig",
    "UNet2DModel",
    "UNet2DOutput",
    "UNetGradTTSConfig",
    "UNetGradTTSModel",
    "VQConfig",
    "VQEncoderOutput",
    "VQModel",
]
