"""Where weights are found, whole or in shards, and that nothing outside the folder is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import septet
from septet import CheckpointError, UNet2DModel
from septet.checkpoints.paths import file_inside
from septet.checkpoints.weights import find_weights, read_weights, wanted_weights, weights_name

STEM = "diffusion_pytorch_model"
ONE, TWO = f"{STEM}-00001-of-00002.safetensors", f"{STEM}-00002-of-00002.safetensors"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder with two shards."""
    save_file({"a": torch.ones(2)}, tmp_path / ONE)
    save_file({"b": torch.zeros(3), "c": torch.ones(1)}, tmp_path / TWO)
    write_map(tmp_path, {"a": ONE, "b": TWO, "c": TWO})
    return tmp_path


def write_map(folder: Path, weight_map: object) -> None:
    path = folder / f"{STEM}.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": weight_map}))


def test_find_weights(tmp_path: Path) -> None:
    stem = tmp_path / STEM
    expected = r"model\.safetensors or diffusion_pytorch_model\.bin or diffusion_model\.pt"
    with pytest.raises(CheckpointError, match=expected):
        find_weights(tmp_path)
    # the worst first
    for name in ("diffusion_model.pt", f"{STEM}.bin.index.json", f"{STEM}.bin"):
        (tmp_path / name).touch()
        assert find_weights(tmp_path).name == name
        assert find_weights(tmp_path, use_safetensors=False).name == name
        with pytest.raises(CheckpointError, match=r"expected diffusion_pytorch_model\.safet"):
            find_weights(tmp_path, use_safetensors=True)
    for name in (f"{STEM}.safetensors.index.json", f"{STEM}.safetensors"):
        (tmp_path / name).touch()
        assert find_weights(tmp_path).name == name
    assert find_weights(tmp_path, use_safetensors=False) == Path(f"{stem}.bin")
    with pytest.raises(CheckpointError, match=r"expected diffusion_pytorch_model\.fp16\.safet"):
        find_weights(tmp_path, variant="fp16")
    for name in (f"{STEM}.safetensors.index.fp16.json", f"{STEM}.fp16.safetensors"):
        (tmp_path / name).touch()
        assert find_weights(tmp_path, variant="fp16").name == name


def test_names_are_those_of_diffusers() -> None:
    hub = pytest.importorskip("diffusers.utils.hub_utils")
    for suffix in (".safetensors", ".bin"):
        assert weights_name("fp16", suffix) == hub._add_variant(f"{STEM}{suffix}", "fp16")
        index = hub._add_variant(f"{STEM}{suffix}.index.json", "fp16")
        assert index in septet.checkpoints.weights.candidates("fp16", None)


def test_shards(shards: Path) -> None:
    path, tensors = read_weights(shards)
    assert path.name == f"{STEM}.safetensors.index.json"
    assert {key: len(tensor) for key, tensor in tensors.items()} == {"a": 2, "b": 3, "c": 1}


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_that_diffusers_wrote(tmp_path: Path, safe: bool, variant: str | None) -> None:
    diffusers = pytest.importorskip("diffusers")
    from old_layouts import MODERN_CONFIG

    theirs = diffusers.UNet2DModel(**MODERN_CONFIG)
    theirs.save_pretrained(
        tmp_path, max_shard_size="400KB", safe_serialization=safe, variant=variant
    )
    assert len(list(tmp_path.glob(f"{STEM}*-of-*"))) > 2
    ours = UNet2DModel.from_pretrained(tmp_path, variant=variant)
    expected = theirs.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.state_dict().items())
    names = [path.name for path in tmp_path.iterdir()]
    assert sorted([*wanted_weights(names, variant, None), "config.json"]) == sorted(names)


@pytest.mark.parametrize(
    "shard",
    [
        *("../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "./x.safetensors"),
        *("..\\x.safetensors", "C:\\x.safetensors", "C:x.safetensors", "\\\\host\\x.safetensors"),
        *("", "..", ".", "x\0.safetensors", "x.bin", "config.json", 3, None, ["x.safetensors"]),
    ],
)
def test_shard_names(shards: Path, shard: object) -> None:
    save_file({"a": torch.ones(2)}, shards.parent / "x.safetensors")
    write_map(shards, {"a": shard, "b": TWO, "c": TWO})
    message = re.escape(f"shard {shard!r} must be the name of a .safetensors file beside it")
    with pytest.raises(CheckpointError, match=message):
        read_weights(shards)


def test_shard_that_is_a_link_out(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / ONE
    (shards / ONE).replace(outside)
    (shards / ONE).symlink_to(outside)
    with pytest.raises(CheckpointError, match=f"'{ONE}' leads out of it"):
        read_weights(shards)
    (shards / "real").mkdir()
    outside.replace(shards / "real" / ONE)
    (shards / ONE).unlink()
    (shards / ONE).symlink_to(shards / "real" / ONE)
    assert len(read_weights(shards)[1]) == 3


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, "weight_map must be an object that is not empty"),
        ({}, "weight_map must be an object that is not empty"),
        ([ONE], "weight_map must be an object that is not empty"),
        ({"a": ONE, "b": TWO}, "00002-of-00002.safetensors: holds unexpected 'c' according to"),
        ({"a": ONE, "b": TWO, "c": ONE}, "00001-of-00002.safetensors: lacks 'c' according to"),
        ({"a": ONE, "b": "x.safetensors"}, r"x\.safetensors: cannot be read"),
        ({str(i): f"{i}.safetensors" for i in range(10_001)}, "names 10001 shards, more than"),
    ],
)
def test_index_that_lies(shards: Path, weight_map: object, message: str) -> None:
    write_map(shards, weight_map)
    with pytest.raises(CheckpointError, match=message):
        read_weights(shards)


def test_index_with_a_key_twice(shards: Path) -> None:
    path = shards / f"{STEM}.safetensors.index.json"
    path.write_text(f'{{"weight_map": {{"a": "{ONE}", "a": "{TWO}"}}}}')
    with pytest.raises(CheckpointError, match=r"index\.json: not valid JSON: key 'a' is there"):
        read_weights(shards)


def test_damaged_shard(shards: Path) -> None:
    (shards / TWO).write_bytes((shards / TWO).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"{TWO}: not a valid safetensors file"):
        read_weights(shards)


@pytest.mark.parametrize("name", ["config.json", f"{STEM}.safetensors"])
def test_files_that_are_links_out(modern: Path, tmp_path: Path, name: str) -> None:
    unet = tmp_path / "pipe" / "unet"
    unet.mkdir(parents=True)
    for path in (modern / "unet").iterdir():
        (unet / path.name).write_bytes(path.read_bytes())
    UNet2DModel.from_pretrained(tmp_path / "pipe", subfolder="unet")
    (unet / name).replace(tmp_path / name)
    (unet / name).symlink_to(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"'unet/{name}' leads out of it"):
        UNet2DModel.from_pretrained(tmp_path / "pipe", subfolder="unet")
    # but somewhere else in the folder is inside
    (unet / name).unlink()
    (tmp_path / name).replace(tmp_path / "pipe" / name)
    (unet / name).symlink_to(f"../{name}")
    UNet2DModel.from_pretrained(tmp_path / "pipe", subfolder="unet")


@pytest.mark.parametrize("name", ["model_index.json", "scheduler/scheduler_config.json"])
def test_other_files_that_are_links_out(
    modern: Path, weights: dict[str, Tensor], tmp_path: Path, name: str
) -> None:
    root = tmp_path / "pipe"
    septet.DDPMPipeline.from_pretrained(modern).save_pretrained(root)
    (root / name).replace(tmp_path / "elsewhere.json")
    (root / name).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(CheckpointError, match=f"'{name}' leads out of it"):
        septet.DDPMPipeline.from_pretrained(root)


# -- snapshots of the hub's cache ---------------------------------------------------------------


def snapshot(cache: Path) -> Path:
    folder = cache / "models--org--name" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (cache / "models--org--name" / "blobs").mkdir()
    return folder


def test_links_into_the_cache(tmp_path: Path) -> None:
    folder = snapshot(tmp_path)
    for store in (folder.parent.parent / "blobs", tmp_path / "blobs" / "ab"):
        store.mkdir(parents=True, exist_ok=True)
        (store / "123").write_text("{}")
        (folder / "unet").mkdir(exist_ok=True)
        for link in (folder / "x.json", folder / "unet" / "x.json"):
            link.unlink(missing_ok=True)
            link.symlink_to(store / "123")
        assert file_inside(folder, "x.json") == folder / "x.json"
        assert file_inside(folder, "unet", "x.json") == folder / "unet" / "x.json"
        assert file_inside(folder / "unet", "x.json") == folder / "unet" / "x.json"
        with pytest.raises(CheckpointError, match="must be a name inside it"):
            file_inside(folder, "../../blobs/123")


def test_links_beside_the_cache(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "cache")
    blobs = folder.parent.parent / "blobs"
    (tmp_path / "secret").write_text("{}")
    (folder / "x.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="leads out"):
        file_inside(folder, "x.json")
    # a store that is itself a link
    blobs.rmdir()
    blobs.symlink_to(tmp_path)
    (folder / "y.json").symlink_to("../../blobs/secret")
    with pytest.raises(CheckpointError, match="leads out"):
        file_inside(folder, "y.json")
    # the store of another repository
    other = tmp_path / "cache" / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "123").touch()
    (folder / "z.json").symlink_to(other / "123")
    with pytest.raises(CheckpointError, match="leads out"):
        file_inside(folder, "z.json")


# -- anything -----------------------------------------------------------------------------------

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([ONE, TWO]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(index=st.dictionaries(st.just("weight_map") | st.text(max_size=4), JSON, max_size=3))
def test_any_index_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, index: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_shards"
    folder.mkdir(exist_ok=True)
    save_file({"a": torch.ones(2)}, folder / ONE)
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))
    try:
        _, tensors = read_weights(folder)
    except CheckpointError as error:
        if str(folder) not in str(error):
            raise
    else:
        assert [*tensors] == ["a"]
