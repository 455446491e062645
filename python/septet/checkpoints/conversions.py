"""How older files of a network become today's, by the network's class name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from septet.checkpoints import grad_tts
from septet.checkpoints.autoencoder import (
    autoencoder_keys,
    infer_kl,
    infer_vq,
    is_authors_autoencoder,
    kl_config,
    vq_config,
)
from septet.checkpoints.compvis_keys import is_compvis_unet
from septet.checkpoints.diffwave import (
    diffwave_config,
    diffwave_keys,
    galr_config,
    galr_keys,
    is_authors_diffwave,
)
from septet.checkpoints.glide import (
    base_settings,
    is_authors_glide,
    plain_keys,
    super_resolution_config,
    text_to_image_config,
    upsampler_settings,
)
from septet.checkpoints.keys import modern_keys
from septet.checkpoints.ldm_bert import bert_config, bert_keys, infer_bert, is_authors_bert
from septet.checkpoints.unet_2d import (
    authors_config,
    is_authors_unet,
    unet_config,
    unet_heads,
    unet_keys,
)
from septet.checkpoints.unet_2d_condition import (
    authors_condition_config,
    condition_config,
    condition_keys,
)


@dataclass(frozen=True)
class Conversion:
    """Everything about the older files of one network.

    Attributes:
        config: Translates a ``config.json`` of any age; raises ValueError naming the key.
        keys: Renames weights of any age; the path is for error messages.
        is_authors: Tells whether weights, as they are in the file, have the authors' names.
        infer: Infers the configuration from the authors' weights under today's names; None where
            shapes do not say enough.
        finish: Converts what can only be understood with the configuration; today's weights stay.
    """

    config: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    keys: Callable[[Mapping[str, Tensor], Path], dict[str, Tensor]] = modern_keys
    is_authors: Callable[[Mapping[str, Tensor]], bool] = lambda _: False
    infer: Callable[[Mapping[str, Tensor], Path], dict[str, Any]] | None = None
    finish: Callable[[Mapping[str, Tensor], Mapping[str, Any], Path], dict[str, Tensor]] = (
        lambda tensors, _config, _path: dict(tensors)
    )


CONVERSIONS = {
    "AutoencoderKL": Conversion(kl_config, autoencoder_keys, is_authors_autoencoder, infer_kl),
    "LDMBertModel": Conversion(bert_config, bert_keys, is_authors_bert, infer_bert),
    "VQModel": Conversion(vq_config, autoencoder_keys, is_authors_autoencoder, infer_vq),
    "UNet2DModel": Conversion(unet_config, unet_keys, is_authors_unet, authors_config, unet_heads),
    "UNet2DConditionModel": Conversion(
        condition_config, condition_keys, is_compvis_unet, authors_condition_config
    ),
    "GlideTextToImageUNet": Conversion(
        text_to_image_config, plain_keys, is_authors_glide, base_settings
    ),
    "GlideSuperResolutionUNet": Conversion(
        super_resolution_config, plain_keys, is_authors_glide, upsampler_settings
    ),
    "DiffWaveModel": Conversion(
        keys=diffwave_keys, is_authors=is_authors_diffwave, infer=diffwave_config
    ),
    "GALRModel": Conversion(keys=galr_keys, is_authors=is_authors_diffwave, infer=galr_config),
    "GradTTSTextEncoder": Conversion(
        keys=grad_tts.text_encoder_keys,
        is_authors=grad_tts.is_authors,
        infer=grad_tts.text_encoder_config,
    ),
    "HiFiGANModel": Conversion(grad_tts.hifigan_config, grad_tts.hifigan_keys),
    "UNetGradTTSModel": Conversion(
        keys=grad_tts.decoder_keys,
        is_authors=grad_tts.is_authors,
        infer=grad_tts.decoder_config,
    ),
}


def conversion(class_name: str) -> Conversion:
    """Return the conversion of a network; most need none but that of attention layers."""
    return CONVERSIONS.get(class_name, Conversion())
