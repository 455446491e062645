"""The networks, with the state-dict and configuration keys of the published checkpoints."""

from septet.models.base import PretrainedModel
from septet.models.config import FrozenConfig, ModelConfig
from septet.models.unet_2d import PreparedUNet2D, UNet2DModel, UNet2DOutput
from septet.models.unet_2d_config import UNet2DConfig

__all__ = [
    "FrozenConfig",
    "ModelConfig",
    "PreparedUNet2D",
    "PretrainedModel",
    "UNet2DConfig",
    "UNet2DModel",
    "UNet2DOutput",
]
