"""The text encoder against diffusers, with the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from septet import CheckpointError, LDMBertModel
from septet.testing.tolerances import relative_error

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers.pipelines.latent_diffusion import pipeline_latent_diffusion as reference

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "max_position_embeddings": 12,
    "encoder_layers": 3,
    "encoder_ffn_dim": 40,
    "encoder_attention_heads": 3,
    "head_dim": 6,
    "d_model": 24,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "wide_heads": {**SMALL, "head_dim": 16, "activation_function": "relu", "dropout": 0.0},
    "one_layer": {**SMALL, "encoder_layers": 1, "pad_token_id": 49, "activation_function": "silu"},
}


def pair(name: str) -> tuple[LDMBertModel, Any]:
    """Make our network and diffusers' with the same random weights."""
    torch.manual_seed(0)
    theirs = reference.LDMBertModel(reference.LDMBertConfig(**CONFIGS[name])).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours = LDMBertModel(**CONFIGS[name]).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def tokens(length: int = 12) -> Tensor:
    return torch.randint(50, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_matches_diffusers(name: str) -> None:
    ours, theirs = pair(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for length in (12, 5):
        ids = tokens(length)
        result = ours(ids, output_hidden_states=True)
        expected = theirs(ids, output_hidden_states=True)
        assert relative_error(result.last_hidden_state, expected.last_hidden_state) <= 1e-5
        assert len(result.hidden_states) == len(expected.hidden_states)
        for one, other in zip(result.hidden_states, expected.hidden_states, strict=True):
            assert relative_error(one, other) <= 1e-5


@torch.no_grad()
def test_forms_of_the_output() -> None:
    ours, _ = pair("small")
    output = ours(tokens())
    assert output.hidden_states is None
    assert output[0] is output.last_hidden_state
    assert len(output.to_tuple()) == 1
    (only,) = ours(tokens(), return_dict=False)
    assert torch.equal(only, output[0])
    last, states = ours(tokens(), output_hidden_states=True, return_dict=False)
    assert torch.equal(last, only)
    assert len(states) == 4


@torch.no_grad()
def test_mask_positions_and_embeddings() -> None:
    ours, theirs = pair("small")
    ids, mask = tokens(), torch.ones(2, 12, dtype=torch.int64)
    mask[0, 7:] = 0
    positions = torch.arange(12).flip(0)[None]
    embeds = theirs.model.embed_tokens(ids)
    for arguments in (
        {"input_ids": ids, "attention_mask": mask},
        {"input_ids": ids, "position_ids": positions},
        {"inputs_embeds": embeds},
        {"inputs_embeds": embeds, "position_ids": positions, "attention_mask": mask},
    ):
        assert relative_error(ours(**arguments)[0], theirs(**arguments)[0]) <= 1e-5
    assert relative_error(ours(ids, mask)[0], ours(ids)[0]) > 1e-3
    assert torch.equal(ours(ids.int())[0], ours(ids)[0])


@torch.no_grad()
def test_half_precision_stays_finite() -> None:
    ours, _ = pair("small")
    ours.model.layers[1].fc2.weight.mul_(2e4)
    ours.half()
    assert ours.model.layers[1].fc2.weight.isfinite().all()
    states = ours(tokens(), output_hidden_states=True).hidden_states
    assert states[2].abs().max() == 64512  # would be infinite without the limit
    assert states[-1].isfinite().all()


def test_gradients_match_diffusers() -> None:
    ours, theirs = pair("wide_heads")
    for model in (ours.train(), theirs.train()):
        model(tokens())[0].square().mean().backward()
    gradients = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        if key.startswith("to_logits"):
            assert parameter.grad is None
            continue
        expected = gradients[key].grad
        assert (parameter.grad - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-7, key


def test_initial_weights() -> None:
    model = LDMBertModel(**{**SMALL, "init_std": 0.5, "d_model": 200})
    for key, parameter in model.named_parameters():
        if "layer_norm" not in key:
            expected = 0 if key.endswith("bias") else 0.5
            assert parameter.std().item() == pytest.approx(expected, rel=0.1), key


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_loads_what_diffusers_saved(tmp_path: Path, suffix: str) -> None:
    ours, theirs = pair("wide_heads")
    theirs.save_pretrained(tmp_path)
    if suffix == "bin":  # as transformers 4 did by default
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = LDMBertModel.from_pretrained(tmp_path)
    assert loaded.config == ours.config
    assert torch.equal(loaded(tokens())[0], ours(tokens())[0])
    with pytest.raises(CheckpointError, match=r"no weights found, expected"):
        LDMBertModel.from_pretrained(tmp_path, variant="fp16")


@torch.no_grad()
def test_diffusers_loads_what_we_saved(tmp_path: Path) -> None:
    ours, _ = pair("small")
    ours.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = reference.LDMBertModel.from_pretrained(tmp_path)
    assert relative_error(loaded(tokens())[0], ours(tokens())[0]) <= 1e-5
    again = LDMBertModel.from_pretrained(tmp_path)
    assert again.config == ours.config
    assert torch.equal(again(tokens())[0], ours(tokens())[0])


def test_its_own_file_beside_that_of_another(tmp_path: Path) -> None:
    """Repositories of a single network keep all files together."""
    ours, _ = pair("small")
    ours.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"another network's")
    LDMBertModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"num_hidden_layers": 4}, "num_hidden_layers must equal encoder_layers, got 4 and 3"),
        ({"hidden_size": 25}, "hidden_size must equal d_model, got 25"),
        ({"rotary": True}, "unknown configuration key 'rotary'"),
    ],
)
def test_configurations_of_transformers(
    tmp_path: Path, extra: dict[str, Any], message: str
) -> None:
    ours, _ = pair("small")
    ours.save_pretrained(tmp_path)
    general = {
        **{"model_type": "ldmbert", "architectures": ["LDMBertModel"], "torch_dtype": "float32"},
        **{"num_hidden_layers": 3, "hidden_size": 24, "num_attention_heads": 3},
        "transformers_version": "4.20.1",
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**SMALL, **general}))
    assert LDMBertModel.from_pretrained(tmp_path).config == ours.config
    path.write_text(json.dumps({**SMALL, **general, **extra}))
    with pytest.raises(CheckpointError, match=message):
        LDMBertModel.from_pretrained(tmp_path)


def test_bad_arguments() -> None:
    model = LDMBertModel(**SMALL)
    ids = tokens()
    with pytest.raises(ValueError, match=r"^exactly one of input_ids and inputs_embeds"):
        model()
    with pytest.raises(ValueError, match=r"^exactly one of input_ids and inputs_embeds"):
        model(ids, inputs_embeds=torch.zeros(2, 12, 24))
    with pytest.raises(ValueError, match=r"^input_ids must have shape \[B, L\], got \[12\]"):
        model(ids[0])
    with pytest.raises(ValueError, match=r"^input_ids must be int64 or int32, got torch.float32"):
        model(ids.float())
    for wrong in (-1, 50):
        with pytest.raises(ValueError, match=r"^input_ids must be from 0 to 49, got"):
            model(torch.full((1, 2), wrong))
    for length in (0, 13):
        with pytest.raises(ValueError, match=r"^input_ids must have 1 to 12 tokens"):
            model(torch.zeros(1, length, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^inputs_embeds must have shape \[B, L, 24\]"):
        model(inputs_embeds=torch.zeros(2, 12, 23))
    with pytest.raises(ValueError, match=r"^attention_mask must have shape \[2, 12\]"):
        model(ids, torch.ones(2, 11))
    with pytest.raises(ValueError, match=r"^position_ids must have shape \[1 or 2, 12\]"):
        model(ids, position_ids=torch.zeros(3, 12, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^position_ids must be from 0 to 11"):
        model(ids, position_ids=torch.full((1, 12), 12))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be an integer"),
        ({"encoder_layers": 1 << 11}, "encoder_layers must be an integer from 1 to 1024"),
        ({"head_dim": 6.0}, "head_dim must be an integer"),
        ({"dropout": 2}, "dropout must be a number from 0 to 1"),
        ({"activation_function": "gelu_new"}, "activation_function must be one of"),
        ({"scale_embedding": None}, "scale_embedding must be true or false"),
        ({"pad_token_id": 50}, "pad_token_id must be an integer from 0 to 49"),
        ({"encoder_layers": 1024, "d_model": 1 << 16}, "ask for about .* parameters"),
        ({"num_labels": 2}, "unknown configuration key 'num_labels'"),
    ],
)
def test_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LDMBertModel(**{**SMALL, **config})
