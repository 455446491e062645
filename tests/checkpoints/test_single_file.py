"""The authors' files give what the layout of diffusers gives."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from old_layouts import EARLY_CONFIG, MODERN_CONFIG, authors_weights, write_json
from safetensors.torch import save_file
from test_old_layouts import images
from torch import Tensor

import septet
from septet import CheckpointError, UNet2DModel
from septet.checkpoints.single_file import read_single_file

CONFIG_WITHOUT_DROPOUT = {k: v for k, v in MODERN_CONFIG.items() if k != "dropout"}


@pytest.fixture(scope="module")
def authors(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return authors_weights(weights)


@pytest.fixture
def ckpt(authors: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save(authors, tmp_path / "model-790000.ckpt")
    return tmp_path / "model-790000.ckpt"


def run(unet: UNet2DModel) -> Tensor:
    with torch.no_grad():
        return unet(torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32), 9).sample


def optimizer_state() -> dict[str, Any]:
    """What torch.optim.Adam saves, in small."""
    entry = {"step": 3, "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    return {"state": {0: entry}, "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999)}]}


@pytest.mark.parametrize("name", ["DDPMPipeline", "DDIMPipeline", "PNDMPipeline"])
def test_same_images_as_todays_layout(modern: Path, ckpt: Path, name: str) -> None:
    expected = getattr(septet, name).from_pretrained(modern)
    pipeline = getattr(septet, name).from_single_file(ckpt, scheduler=expected.scheduler)
    assert torch.equal(images(pipeline), images(expected))


def test_everything_is_inferred(unet: UNet2DModel, ckpt: Path) -> None:
    loaded = UNet2DModel.from_single_file(ckpt)
    assert loaded.config == {**unet.config, "dropout": 0.0}
    assert torch.equal(run(loaded), run(unet))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert UNet2DModel.from_single_file(ckpt, dtype=torch.float16).dtype == torch.float16
    assert UNet2DModel.from_single_file(ckpt, torch_dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize(("size", "variance"), [(64, "fixed_large"), (256, "fixed_small")])
def test_default_scheduler(ckpt: Path, size: int, variance: str) -> None:
    pipeline = septet.DDPMPipeline.from_single_file(ckpt, config={"sample_size": size})
    assert type(pipeline.scheduler) is septet.DDPMScheduler
    config = pipeline.scheduler.config
    assert (config.num_train_timesteps, config.beta_schedule) == (1000, "linear")
    assert (config.beta_start, config.beta_end, config.clip_sample) == (1e-4, 0.02, True)
    assert config.variance_type == variance
    ddim = septet.DDIMPipeline.from_single_file(ckpt)
    assert type(ddim.scheduler) is septet.DDIMScheduler
    assert ddim.scheduler.config.clip_sample
    assert ddim.scheduler.config.set_alpha_to_one
    pndm = septet.PNDMPipeline.from_single_file(ckpt)
    assert not pndm.scheduler.config.set_alpha_to_one


@pytest.mark.parametrize(
    "config", [EARLY_CONFIG, {"_class_name": "UNetModel", **EARLY_CONFIG}, MODERN_CONFIG]
)
def test_a_configuration_of_any_age(
    unet: UNet2DModel, ckpt: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    write_json(tmp_path / "config.json", config)
    for given_config in (config, tmp_path, tmp_path / "config.json", str(tmp_path)):
        loaded = UNet2DModel.from_single_file(ckpt, config=given_config)
        assert loaded.config == unet.config
        assert torch.equal(run(loaded), run(unet))


def test_parallel_training(unet: UNet2DModel, authors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({f"module.{key}": value for key, value in authors.items()}, path)
    assert torch.equal(run(UNet2DModel.from_single_file(path)), run(unet))
    torch.save({**authors, "logvar": torch.zeros(1000)}, path)
    assert torch.equal(run(UNet2DModel.from_single_file(path)), run(unet))


def test_lightning_keeps_callbacks_by_class(
    unet: UNet2DModel, authors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "pytorch_lightning.callbacks.model_checkpoint"
    modules = {".".join(name.split(".")[:n]): types.ModuleType("") for n in (1, 2, 3)}
    callback = type("ModelCheckpoint", (), {"__module__": name})
    modules[name].ModelCheckpoint = callback  # type: ignore[attr-defined]
    path = tmp_path / "model.ckpt"
    with monkeypatch.context() as patch:
        for key, module in modules.items():
            patch.setitem(sys.modules, key, module)
        state = {"best_model_score": torch.ones(()), "best_model_path": "last.ckpt"}
        torch.save({"state_dict": authors, "callbacks": {callback: state}}, path)
        torch.save(callback(), tmp_path / "object.ckpt")
    assert torch.equal(run(UNet2DModel.from_single_file(path)), run(unet))
    with pytest.raises(CheckpointError, match="expected a mapping from names to tensors"):
        UNet2DModel.from_single_file(tmp_path / "object.ckpt")


def test_training_states(unet: UNet2DModel, authors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pth"
    raw = {f"module.{key}": value + 1 for key, value in authors.items()}
    ddim = [raw, optimizer_state(), 7, 790_000, authors]
    torch.save(ddim, path)
    averaged = UNet2DModel.from_single_file(path)
    assert torch.equal(run(averaged), run(unet))
    plain = UNet2DModel.from_single_file(path, use_ema=False)
    assert torch.equal(plain.conv_in.bias, unet.conv_in.bias + 1)
    torch.save(ddim[:4], path)  # PNDM's training keeps the average in a file of its own
    plain = UNet2DModel.from_single_file(path)
    assert torch.equal(plain.conv_in.bias, unet.conv_in.bias + 1)


def test_files_before_torch_1_6(
    unet: UNet2DModel, authors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(authors, path, _use_new_zipfile_serialization=False)
    assert path.read_bytes()[:2] != b"PK"
    assert torch.equal(run(UNet2DModel.from_single_file(path)), run(unet))


def test_safetensors_and_todays_names(
    unet: UNet2DModel, authors: dict[str, Tensor], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(authors, tmp_path / "authors.safetensors")
    loaded = UNet2DModel.from_single_file(tmp_path / "authors.safetensors")
    assert torch.equal(run(loaded), run(unet))
    save_file(weights, tmp_path / "today.safetensors")
    with pytest.raises(CheckpointError, match=r"today\.safetensors: config must be given"):
        UNet2DModel.from_single_file(tmp_path / "today.safetensors")
    loaded = UNet2DModel.from_single_file(tmp_path / "today.safetensors", config=MODERN_CONFIG)
    assert torch.equal(run(loaded), run(unet))


def test_a_network_without_attention_levels_needs_its_size(
    authors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({k: v for k, v in authors.items() if ".attn." not in k}, path)
    assert UNet2DModel.from_single_file(path).config.sample_size is None
    with pytest.raises(ValueError, match="sample_size must be set"):
        septet.DDPMPipeline.from_single_file(path)(num_inference_steps=1)
    assert UNet2DModel.from_single_file(path, config={"sample_size": 8}).config.sample_size == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: [w], "expected weights, or .* got a list of 1 entries"),
        (lambda w: [w, {}, 0, 0, 0, 0], "expected weights, or .* got a list of 6 entries"),
        (lambda w: [1, {}, 0, 0], "expected weights, or "),
        (lambda w: [w, {}, 0, 0, 3], "expected a mapping from names to tensors"),
        (lambda w: {"state": w}, "expected a mapping from names to tensors"),
        (lambda w: {}, "config must be given"),
        (lambda w: {**w, "extra": torch.ones(1)}, "holds unexpected 'extra'"),
        (lambda w: {k: v for k, v in w.items() if k != "norm_out.bias"}, "lacks 'conv_norm_out.b"),
        (lambda w: {**w, "conv_in.weight": torch.ones(3)}, "'conv_in.weight' must be a convol"),
        (lambda w: {"temb.dense.0.weight": torch.ones(1)}, "does not hold the weights of a UNet"),
        (lambda w: {**w, "conv_in.bias": torch.ones(5)}, r"'conv_in.bias' has shape \[5\]"),
        (
            lambda w: {**w, "down.0.block.0.conv1.weight": torch.ones(1).expand(2**20, 32, 3, 3)},
            r"its tensors claim \d+ bytes, the file has",
        ),
        (
            lambda w: {**w, "down.0.block.0.conv1.weight": torch.ones(33, 32, 3, 3)},
            "norm_num_groups must divide block_out_channels",
        ),
    ],
)
def test_refuses(authors: dict[str, Tensor], tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(change(authors), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        UNet2DModel.from_single_file(path)
    assert str(path) in str(caught.value)


def test_refuses_arguments(ckpt: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.ckpt: cannot be read"):
        UNet2DModel.from_single_file(tmp_path / "nowhere.ckpt")
    with pytest.raises(ValueError, match="unknown argument 'vae'; DDPMPipeline has the components"):
        septet.DDPMPipeline.from_single_file(ckpt, vae=None)
    with pytest.raises(CheckpointError, match="unknown configuration key 'heads'"):
        UNet2DModel.from_single_file(ckpt, config={"heads": 1})
    with pytest.raises(CheckpointError, match="describes a 'VQModel'"):
        UNet2DModel.from_single_file(ckpt, config={"_class_name": "VQModel"})
    with pytest.raises(CheckpointError, match="cannot be read"):
        UNet2DModel.from_single_file(ckpt, config=tmp_path / "no.json")


PLAIN = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=4) | st.just(torch.ones(2)),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(value=PLAIN)
def test_any_value_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.ckpt"
    torch.save(value, path)
    try:
        tensors = read_single_file(path)
    except CheckpointError as error:
        if str(path) not in str(error):
            raise
    else:
        assert all(isinstance(tensor, Tensor) for tensor in tensors.values())
