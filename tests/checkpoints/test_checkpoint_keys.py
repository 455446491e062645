"""Older names of weights, and the check that a file suits a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from septet.checkpoints import match_keys, modern_keys
from septet.errors import CheckpointError

PATH = Path("weights.safetensors")


def test_old_attention_names() -> None:
    pairs = {
        "mid_block.attentions.0.query.weight": "mid_block.attentions.0.to_q.weight",
        "down_blocks.1.attentions.2.key.bias": "down_blocks.1.attentions.2.to_k.bias",
        "encoder.mid_block.attentions.0.value.weight": "encoder.mid_block.attentions.0.to_v.weight",
        "up_blocks.0.attentions.1.proj_attn.bias": "up_blocks.0.attentions.1.to_out.0.bias",
        "mid_block.attentions.0.to_q.weight": "mid_block.attentions.0.to_q.weight",
        "text.layers.0.attn.query.weight": "text.layers.0.attn.query.weight",
        "attentions.0.query.weight.extra": "attentions.0.query.weight.extra",
    }
    for old, new in pairs.items():
        tensor = torch.ones(1)
        assert modern_keys({old: tensor}, PATH) == {new: tensor}


def test_both_names_at_once() -> None:
    tensors = {
        "mid_block.attentions.0.query.bias": torch.ones(1),
        "mid_block.attentions.0.to_q.bias": torch.ones(1),
    }
    with pytest.raises(CheckpointError, match=r"attentions\.0\.to_q\.bias' under its older name"):
        modern_keys(tensors, PATH)


def test_match() -> None:
    expected = {"a": torch.ones(2, 3), "b": torch.ones(4)}
    match_keys(expected, {"b": torch.ones(4), "a": torch.ones(2, 3, dtype=torch.half)}, PATH)
    with pytest.raises(CheckpointError, match=r"^weights\.safetensors: lacks 'b'$"):
        match_keys(expected, {"a": torch.ones(2, 3)}, PATH)
    with pytest.raises(CheckpointError, match=r"holds unexpected 'c'$"):
        match_keys(expected, {**expected, "c": torch.ones(1)}, PATH)
    with pytest.raises(CheckpointError, match=r"'a' has shape \[3, 2\], expected \[2, 3\]"):
        match_keys(expected, {**expected, "a": torch.ones(3, 2)}, PATH)
    with pytest.raises(CheckpointError, match=r"'b' has dtype torch\.int64, expected a floating"):
        match_keys(expected, {**expected, "b": torch.ones(4, dtype=torch.int64)}, PATH)
    for odd in (torch.ones(4).to_sparse(), torch.ones(4, device="meta")):
        with pytest.raises(CheckpointError, match=r"'b' is a .* expected a dense one with values"):
            match_keys(expected, {**expected, "b": odd}, PATH)


def test_long_lists_are_cut() -> None:
    expected = {f"layer.{index}": torch.ones(1) for index in range(10)}
    with pytest.raises(CheckpointError, match=r"'layer\.3' and 6 more$"):
        match_keys(expected, {}, PATH)
