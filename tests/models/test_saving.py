"""Saving and loading networks, alone and together with diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from septet.errors import CheckpointError
from septet.models import UNet2DModel

CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(**CONFIG).eval()


@pytest.fixture
def folder(model: UNet2DModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


@torch.no_grad()
def run(model: Any) -> Tensor:
    """Run a network on a fixed input."""
    sample = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    output: Tensor = model(sample.to(model.dtype), 10).sample
    return output


def edit_config(folder: Path, **changes: object) -> None:
    """Change entries of the configuration file."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip(model: UNet2DModel, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", WEIGHTS]
    loaded = UNet2DModel.from_pretrained(folder)
    assert loaded.config == model.config
    assert torch.equal(run(loaded), run(model))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.device == torch.device("cpu")


def test_subfolder_and_variant(model: UNet2DModel, folder: Path) -> None:
    model.save_pretrained(folder, variant="fp16")
    loaded = UNet2DModel.from_pretrained(folder.parent, subfolder="unet", variant="fp16")
    assert torch.equal(run(loaded), run(model))
    with pytest.raises(CheckpointError, match=r"expected diffusion_pytorch_model\.bf16\.safet"):
        UNet2DModel.from_pretrained(folder, variant="bf16")
    with pytest.raises(CheckpointError, match="must be a name inside it"):
        UNet2DModel.from_pretrained(folder, subfolder="../unet")


def test_dtype(model: UNet2DModel, folder: Path) -> None:
    assert UNet2DModel.from_pretrained(folder, dtype=torch.float16).dtype == torch.float16
    assert UNet2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    model.half().save_pretrained(folder)
    assert UNet2DModel.from_pretrained(folder).dtype == torch.float32
    with pytest.raises(ValueError, match="dtype and torch_dtype must agree"):
        UNet2DModel.from_pretrained(folder, dtype=torch.half, torch_dtype=torch.float32)
    with pytest.raises(ValueError, match=r"dtype must be a floating torch\.dtype"):
        UNet2DModel.from_pretrained(folder, dtype=torch.int8)


def test_replacing_files_in_use(model: UNet2DModel, folder: Path) -> None:
    loaded = UNet2DModel.from_pretrained(folder)
    expected = run(loaded)
    other = UNet2DModel(**CONFIG)
    other.save_pretrained(folder)
    assert torch.equal(run(loaded), expected)
    assert torch.equal(run(UNet2DModel.from_pretrained(folder)), run(other.eval()))


def test_diffusers_reads_ours(model: UNet2DModel, folder: Path) -> None:
    theirs = pytest.importorskip("diffusers").UNet2DModel.from_pretrained(folder)
    assert {key: theirs.config[key] for key in model.config} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in model.config.items()
    }
    assert (run(theirs) - run(model)).abs().max() <= 1e-5


@pytest.mark.parametrize("safe", [True, False])
def test_we_read_diffusers(tmp_path: Path, safe: bool) -> None:
    theirs = pytest.importorskip("diffusers").UNet2DModel(**CONFIG)
    theirs.save_pretrained(tmp_path, safe_serialization=safe)
    ours = UNet2DModel.from_pretrained(tmp_path)
    assert (run(ours) - run(theirs)).abs().max() <= 1e-5
    with pytest.raises(CheckpointError, match="no weights found"):
        UNet2DModel.from_pretrained(tmp_path, use_safetensors=not safe)


def test_reads_the_attention_names_of_2022(model: UNet2DModel, folder: Path) -> None:
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / WEIGHTS)
    for new, old in old_names.items():
        tensors = {key.replace(f".{new}.", f".{old}."): value for key, value in tensors.items()}
    assert "mid_block.attentions.0.proj_attn.bias" in tensors
    save_file(tensors, folder / WEIGHTS)
    assert torch.equal(run(UNet2DModel.from_pretrained(folder)), run(model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": -1}, r"config\.json: in_channels must be an integer"),
        ({"cross_attention_dim": 1}, r"config\.json: unknown configuration key 'cross_att"),
        ({"_class_name": "os.system"}, r"config\.json: describes a 'os\.system', expected 'UNet2D"),
        ({"block_out_channels": [16384, 16384]}, r"config\.json: block_out_channels, layers_per"),
        ({"block_out_channels": [8, 32]}, r"safetensors: .* has shape \[.*\], expected \[.*\]"),
        ({"layers_per_block": 2}, r"safetensors: lacks 'down_blocks\.0\.resnets\.1\."),
        ({"add_attention": False}, r"safetensors: holds unexpected 'mid_block\.attentions\.0\."),
    ],
)
def test_refuses_a_configuration_that_does_not_fit(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        UNet2DModel.from_pretrained(folder)


def test_ignores_private_keys(model: UNet2DModel, folder: Path) -> None:
    edit_config(folder, _diffusers_version="0.1.1", _name_or_path="somewhere")
    assert torch.equal(run(UNet2DModel.from_pretrained(folder)), run(model))


def test_refuses_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/config\.json: cannot be read"):
        UNet2DModel.from_pretrained(tmp_path / "nowhere")
