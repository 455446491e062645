"""Damaged or hostile JSON ends in a CheckpointError; files we write are never half there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.checkpoints import files, tensors
from septet.checkpoints.files import read_json, write_json
from septet.checkpoints.tensors import write_tensors
from septet.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}

quick = settings(max_examples=150, deadline=None, derandomize=True)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b"null", "expected a JSON object, got NoneType"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": -Infinity}', "-Infinity is not a finite number"),
        (b'{"a": 1e999}', "1e999 is not a finite number"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' is there twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deep"),
    ],
)
def test_json_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_json_missing_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_json(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_json(tmp_path)
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_json(Path(os.devnull))
    write_json(tmp_path / "large.json", {"text": "x" * 100})
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 50)
    with pytest.raises(CheckpointError, match="too large, expected at most 50 bytes"):
        read_json(tmp_path / "large.json")


@quick
@given(data=st.binary(max_size=64))
def test_json_of_any_bytes(work: Path, data: bytes) -> None:
    path = work / "any.json"
    path.write_bytes(data)
    try:
        value = read_json(path)
    except CheckpointError as error:
        if str(path) not in str(error):
            raise
    else:
        assert isinstance(value, dict)


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"c": "é"}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == value


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    before = path.read_bytes()

    def fail_half_way(_tensors: object, target: Path, _metadata: object) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", fail_half_way)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, {"a": torch.zeros(3)})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def test_written_files_have_plain_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    write_tensors(tmp_path / "x.safetensors", TENSORS)
    write_json(tmp_path / "x.json", {})
    for name in ("x.safetensors", "x.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == expected
