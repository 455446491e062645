"""Stored runs of the authors' Grad-TTS, and septet's networks with their weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import septet
from stored import Oracle

NAMES = ("grad_tts_single", "grad_tts_multi")


def text_encoder(settings: dict[str, Any]) -> septet.GradTTSTextEncoder:
    """Make a text encoder from the authors' constructor arguments."""
    names = {
        "n_vocab": "n_vocab",
        "n_feats": "n_feats",
        "n_channels": "n_enc_channels",
        "filter_channels": "filter_channels",
        "filter_channels_dp": "filter_channels_dp",
        "n_heads": "n_heads",
        "n_layers": "n_enc_layers",
        "kernel_size": "enc_kernel",
        "p_dropout": "enc_dropout",
        "window_size": "window_size",
    }
    return septet.GradTTSTextEncoder(**{ours: settings[name] for ours, name in names.items()})


def unet(settings: dict[str, Any]) -> septet.UNetGradTTSModel:
    """Make a decoder from the authors' constructor arguments."""
    names = ("n_spks", "spk_emb_dim", "n_feats", "pe_scale")
    return septet.UNetGradTTSModel(
        dim=settings["dec_dim"], **{name: settings[name] for name in names}
    )


def load_networks(oracle: Oracle) -> tuple[septet.GradTTSTextEncoder, septet.UNetGradTTSModel]:
    """Make both networks with the oracle's weights, whose prefixes are taken off here."""
    encoder, decoder = text_encoder(oracle.constructor), unet(oracle.constructor)
    own: dict[str, Tensor] = {}
    decoder_own: dict[str, Tensor] = {}
    for key, tensor in oracle.weights().items():
        part, _, rest = key.partition(".")
        if part == "encoder":
            own[rest] = tensor
        else:
            decoder_own[rest.removeprefix("estimator.") if part == "decoder" else key] = tensor
    encoder.load_state_dict(own)
    decoder.load_state_dict(decoder_own)
    return encoder.eval().requires_grad_(False), decoder.eval().requires_grad_(False)
