"""The index file of a checkpoint folder, and where its components may lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.checkpoints import CheckpointFolder, write_index
from septet.checkpoints.paths import inside
from septet.errors import CheckpointError

INDEX: dict[str, Any] = {
    "_class_name": "DDPMPipeline",
    "_diffusers_version": "0.1.1",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


def make(root: Path, **changes: object) -> Path:
    """Write an index file."""
    root.mkdir(exist_ok=True)
    (root / "model_index.json").write_text(json.dumps({**INDEX, **changes}))
    return root


def test_sub_folders_with_root_fallback(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "unet").mkdir()
    folder = CheckpointFolder.open(tmp_path)
    assert folder.class_name == "DDPMPipeline"
    assert folder.component("unet").path == tmp_path / "unet"
    assert folder.component("scheduler").path == tmp_path
    assert folder.component("unet", "UNet2DModel").library == "diffusers"


def test_absent_components_and_options(tmp_path: Path) -> None:
    make(
        tmp_path,
        safety_checker=[None, None],
        feature_extractor=["transformers", "CLIPFeatureExtractor"],
        requires_safety_checker=False,
    )
    folder = CheckpointFolder.open(tmp_path)
    assert sorted(folder.components) == ["scheduler", "unet"]
    assert folder.options == {"requires_safety_checker": False}
    with pytest.raises(CheckpointError, match=r"no component 'vae', there are \['scheduler', 'un"):
        folder.component("vae")
    with pytest.raises(CheckpointError, match="'unet' is a UNet2DModel, expected AutoencoderKL"):
        folder.component("unet", "AutoencoderKL")


def test_write_index(tmp_path: Path) -> None:
    classes = {
        "unet": "UNet2DModel",
        "text_encoder": "CLIPTextModel",
        "bert": "LDMBertModel",
        "upscale_unet": None,
    }
    write_index(tmp_path, "DDIMPipeline", classes)
    folder = CheckpointFolder.open(tmp_path)
    assert folder.class_name == "DDIMPipeline"
    found = {name: (part.library, part.class_name) for name, part in folder.components.items()}
    assert found == {
        "unet": ("diffusers", "UNet2DModel"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "bert": ("latent_diffusion", "LDMBertModel"),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "FluxPipeline"}, "_class_name is 'FluxPipeline'"),
        ({"_class_name": None}, r"_class_name is None, expected one of \['DDPMPipeline'"),
        ({"_class_name": ["DDPMPipeline"]}, r"_class_name is \['DDPMPipeline'\]"),
        ({"unet": ["os", "system"]}, "component 'unet' is 'system', expected one of"),
        ({"unet": ["diffusers", None]}, r"component 'unet' must be \[library, class\]"),
        ({"unet": ["diffusers"]}, r"component 'unet' must be \[library, class\]"),
        ({"unet": []}, r"component 'unet' must be \[library, class\]"),
        ({"unet": ["diffusers", "UNet1DModel"]}, "component 'unet' is 'UNet1DModel', expected"),
        ({"_class_name": "Kandinsky"}, "_class_name is 'Kandinsky', expected one of"),
        ({"noise_scheduler": ["diffusers", "DDPMScheduler"]}, "'scheduler' is there twice"),
        ({"../unet": ["diffusers", "UNet2DModel"]}, "must be a name inside it"),
    ],
)
def test_refuses_index(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    make(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        CheckpointFolder.open(tmp_path)


def test_refuses_a_folder_without_index(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model_index\.json: cannot be read"):
        CheckpointFolder.open(tmp_path)


@pytest.mark.parametrize(
    "name", ["..", "a/..", "a/../../b", "/etc", "C:\\x", "\\\\host\\x", "..\\x", "a\0b", ""]
)
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="must be a name inside it"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["x" * 5000, "\ud800", "loop"])
def test_names_that_are_no_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    make(tmp_path, **{name: ["diffusers", "UNet2DModel"]})
    try:
        folder = CheckpointFolder.open(tmp_path)
    except CheckpointError as error:
        if "is no path" not in str(error):
            raise
    else:
        assert folder.component(name).path == tmp_path


def test_links(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "real").mkdir()
    (root / "unet").symlink_to(outside)
    (root / "scheduler").symlink_to(root / "real")
    assert inside(root, "scheduler") == root / "scheduler"
    with pytest.raises(CheckpointError, match="'unet' leads out of it"):
        CheckpointFolder.open(root)
    # A checkpoint folder may itself be reached through a link.
    (tmp_path / "link").symlink_to(root)
    assert inside(tmp_path / "link", "real") == tmp_path / "link" / "real"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(name=st.text(alphabet="./\\ab:\0", max_size=6))
def test_any_name_stays_inside(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.getbasetemp()
    try:
        path = inside(root, name)
    except CheckpointError:
        return
    assert path.resolve().is_relative_to(root.resolve())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(changes=st.dictionaries(st.sampled_from([*INDEX, "vae"]) | st.text(max_size=6), JSON))
def test_any_index_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    root = make(tmp_path_factory.getbasetemp() / "any_index", **changes)
    try:
        CheckpointFolder.open(root)
    except CheckpointError as error:
        if str(root) not in str(error):
            raise
