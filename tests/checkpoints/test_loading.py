"""Loading a pipeline: types per component, and configurations that make no sense."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import old_layouts
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from septet import CheckpointError, DDPMPipeline, DiffusionPipeline, UNet2DModel
from septet.checkpoints.unet_2d import unet_config
from septet.models import UNet2DConfig


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [
        (None, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        ({"unet": torch.float16}, torch.float16),
        ({"default": torch.float64}, torch.float64),
        ({"default": torch.float64, "unet": torch.float16}, torch.float16),
        ({"scheduler": torch.float16}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_dtype_by_component(modern: Path, given_dtype: Any, expected: torch.dtype) -> None:
    assert DDPMPipeline.from_pretrained(modern, dtype=given_dtype).dtype == expected
    assert DDPMPipeline.from_pretrained(modern, torch_dtype=given_dtype).dtype == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": {"vae": torch.float16}}, "dtype has an entry for 'vae'; the components are"),
        ({"dtype": {"unet": "half"}}, "dtype must be a floating torch.dtype"),
        ({"dtype": torch.half, "torch_dtype": torch.float32}, "dtype and torch_dtype must agree"),
        ({"colour": 3}, "unknown argument 'colour'"),
    ],
)
def test_refuses_arguments(modern: Path, arguments: dict[str, Any], message: str) -> None:
    for loader in (DDPMPipeline, DiffusionPipeline):
        with pytest.raises(ValueError, match=message):
            loader.from_pretrained(modern, **arguments)


@pytest.fixture
def copy(modern: Path, tmp_path: Path) -> Path:
    shutil.copytree(modern, tmp_path / "copy")
    return tmp_path / "copy"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        *({"num_train_timesteps": value} for value in (0, -5, 10**12, "1000", None, [1000])),
        *({"beta_start": value} for value in (-1, "x", 10**400)),
        {"beta_schedule": "os.system"},
        {"trained_betas": "zeros"},
        {"trained_betas": [[0.1], 0.2]},
        {"colour": 3},
    ],
)
def test_absurd_scheduler(copy: Path, changes: dict[str, Any]) -> None:
    path = copy / "scheduler" / "scheduler_config.json"
    edit(path, **changes)
    with pytest.raises(CheckpointError) as caught:
        DDPMPipeline.from_pretrained(copy)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": [10**9]}, r"block_out_channels\[0\] must be an integer"),
        ({"layers_per_block": 10**5000}, "not valid JSON|layers_per_block must be"),
        ({"_class_name": "AutoencoderKL"}, "describes a 'AutoencoderKL', expected 'UNet2DModel'"),
        ({"_class_name": 7}, "describes a 7"),
    ],
)
def test_absurd_network(copy: Path, changes: dict[str, Any], message: str) -> None:
    path = copy / "unet" / "config.json"
    text = json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in changes})
    for key, value in changes.items():
        shown = "1" + "0" * 5000 if key == "layers_per_block" else json.dumps(value)
        text = f'{text[:-1]}, "{key}": {shown}}}'
    path.write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        DDPMPipeline.from_pretrained(copy)
    assert str(path) in str(caught.value)


class Intruder:
    """An object whose unpickling would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o700)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_weights_does_not_run(
    weights: dict[str, Tensor], tmp_path: Path, zipped: bool
) -> None:
    made = tmp_path / "made"
    for value in ({**weights, "x": Intruder(made)}, [weights, Intruder(made), 0, 0, weights]):
        old_layouts.write_early(tmp_path / "early", weights)
        path = tmp_path / "early" / "unet" / "diffusion_model.pt"
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="not a file of plain weights"):
            DDPMPipeline.from_pretrained(tmp_path / "early")
        with pytest.raises(CheckpointError, match="not a file of plain weights"):
            UNet2DModel.from_single_file(path)
    assert not made.exists()
    with pytest.raises(CheckpointError, match="no weights found"):
        DDPMPipeline.from_pretrained(tmp_path / "early", use_safetensors=True)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
OLD_CONFIGS = [
    {"_class_name": "UNetModel", **old_layouts.EARLY_CONFIG},
    {"_class_name": "UNetUnconditionalModel", **old_layouts.JULY_CONFIG},
    {"_class_name": "UNet2DModel", **old_layouts.MODERN_CONFIG},
]
KEYS = sorted({key for config in OLD_CONFIGS for key in config})


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    config=st.sampled_from(OLD_CONFIGS),
    changes=st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), JSON, max_size=3),
)
def test_any_old_configuration_is_taken_or_refused(
    config: dict[str, Any], changes: dict[str, Any]
) -> None:
    try:
        UNet2DConfig.from_dict(unet_config({**config, **changes}))
    except ValueError as error:
        if not str(error):
            raise
