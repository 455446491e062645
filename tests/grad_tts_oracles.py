"""Stored runs of the authors' Grad-TTS, and septet's networks with their weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

import septet

DATA = Path(__file__).parent / "data" / "oracles"
NAMES = ("grad_tts_single", "grad_tts_multi")


@dataclass(frozen=True)
class Oracle:
    """One file: its description and its tensors."""

    settings: dict[str, Any]
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def weights(self) -> dict[str, Tensor]:
        return {
            key.removeprefix("weights."): tensor
            for key, tensor in self.tensors.items()
            if key.startswith("weights.")
        }


def load(name: str) -> Oracle:
    description = json.loads((DATA / f"{name}.json").read_text())
    tensors = load_file(DATA / f"{name}.safetensors")
    return Oracle(description["constructor"], description["config"], tensors)


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
    encoder, decoder = text_encoder(oracle.settings), unet(oracle.settings)
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


def relative_error(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).detach().abs().max() / expected.detach().abs().max())
