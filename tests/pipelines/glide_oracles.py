"""The authors' tiny networks of tests/data/oracles, and their stored runs."""

from __future__ import annotations

from typing import Any

import torch

from septet.models import GlideSuperResolutionUNet, GlideTextToImageUNet
from stored import Oracle

_SAME = (
    *("out_channels", "model_channels", "num_res_blocks", "dropout", "num_heads"),
    *("num_head_channels", "text_ctx", "xf_width", "xf_layers", "xf_heads", "n_vocab"),
)
_LISTS = ("channel_mult", "attention_resolutions")


def oracle(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    stored = Oracle(name)
    return stored.tensors, stored.info


def settings(case: dict[str, Any]) -> dict[str, Any]:
    """Return our configuration of the network that a case was computed with."""
    theirs = case["constructor"]
    ours = {key: theirs[key] for key in _SAME} | {key: tuple(theirs[key]) for key in _LISTS}
    is_upsampler = case["cls"] == "SuperResText2ImUNet"
    ours["in_channels"] = theirs["in_channels"] * (2 if is_upsampler else 1)
    ours["sample_size"] = case["config"]["h"]
    return ours


def network(
    tensors: dict[str, torch.Tensor], case: dict[str, Any], dtype: torch.dtype = torch.float32
) -> Any:
    """Return our network with the weights of a case."""
    is_upsampler = case["cls"] == "SuperResText2ImUNet"
    made = (GlideSuperResolutionUNet if is_upsampler else GlideTextToImageUNet)(**settings(case))
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k[:8] == "weights."}
    made.load_state_dict({key: value.to(dtype) for key, value in weights.items()}, assign=True)
    return made.eval().requires_grad_(False)
