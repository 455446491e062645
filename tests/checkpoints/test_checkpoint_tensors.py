"""Damaged, lying or hostile weights end in a CheckpointError that names the file."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from septet.checkpoints import tensors as tensors_module
from septet.checkpoints.tensors import read_tensors, write_tensors
from septet.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}
SAFETENSORS = save(TENSORS, {"format": "pt"})
HEADER_SIZE = struct.unpack("<Q", SAFETENSORS[:8])[0]
HEADER: dict[str, Any] = json.loads(SAFETENSORS[8 : 8 + HEADER_SIZE])

quick = settings(max_examples=150, deadline=None, derandomize=True)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def read_or_refuse(path: Path) -> dict[str, Tensor] | None:
    """Read tensors; the only error allowed is the one that names the file."""
    try:
        return read_tensors(path)
    except CheckpointError as error:
        if str(path) not in str(error):
            raise
        return None


def with_header(header: object, body: bytes = SAFETENSORS[8 + HEADER_SIZE :]) -> bytes:
    """Make a safetensors file with any header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_tensors_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {**TENSORS, "transposed": torch.arange(6.0).reshape(2, 3).T, "empty": torch.ones(0)}
    write_tensors(path, tensors)
    loaded = read_tensors(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 20, len(SAFETENSORS) - 1])
def test_truncated_safetensors(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(SAFETENSORS[:length])
    with pytest.raises(CheckpointError, match=r"x\.safetensors: "):
        read_tensors(path)


@quick
@given(length=st.integers(0, len(SAFETENSORS) - 1), tail=st.binary(max_size=16))
def test_safetensors_with_another_end(work: Path, length: int, tail: bytes) -> None:
    path = work / "truncated.safetensors"
    path.write_bytes(SAFETENSORS[:length] + tail)
    result = read_or_refuse(path)
    assert result is None or length + len(tail) == len(SAFETENSORS)


@quick
@given(position=st.integers(0, 7 + HEADER_SIZE), value=st.integers(0, 255))
def test_safetensors_with_a_changed_byte(work: Path, position: int, value: int) -> None:
    path = work / "changed.safetensors"
    content = bytearray(SAFETENSORS)
    content[position] = value
    path.write_bytes(content)
    read_or_refuse(path)


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "F4", "F8_E8M0", "I64", "BOOL", "C64", "X", "", 7]),
        "shape": st.lists(st.integers(-2, 2**63), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 64), min_size=1, max_size=3),
    }
)


@quick
@given(entry=ENTRY, name=st.sampled_from(["a.weight", "b", "c", "__metadata__", ""]))
def test_safetensors_with_a_lying_header(work: Path, entry: dict[str, Any], name: str) -> None:
    path = work / "lying.safetensors"
    path.write_bytes(with_header({**HEADER, name: entry}))
    read_or_refuse(path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2, 2**40], "data_offsets": [0, 24]}},
        {"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 2**50]}},
        {"a": {"dtype": "F32", "shape": [6], "data_offsets": [24, 0]}},
        {"a": {"dtype": "F32", "shape": [8]}},
        ["a"],
        "a",
    ],
)
def test_safetensors_with_an_impossible_header(tmp_path: Path, header: object) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(header))
    with pytest.raises(CheckpointError, match=r"x\.safetensors: not a valid safetensors file"):
        read_tensors(path)


def test_safetensors_with_a_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    text = SAFETENSORS[8 : 8 + HEADER_SIZE].rstrip()
    entry = b', "b": ' + json.dumps(HEADER["b"]).encode() + b"}"
    header = text[:-1] + entry
    path.write_bytes(struct.pack("<Q", len(header)) + header + SAFETENSORS[8 + HEADER_SIZE :])
    with pytest.raises(CheckpointError, match=r"not a valid safetensors .*'b' is there twice"):
        read_tensors(path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**6])
def test_safetensors_with_a_huge_header(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + SAFETENSORS[8:])
    with pytest.raises(CheckpointError, match=f"its header would have {length} bytes"):
        read_tensors(path)


def test_safetensors_with_a_header_over_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors_module, "MAX_HEADER_BYTES", HEADER_SIZE - 1)
    path = tmp_path / "x.safetensors"
    path.write_bytes(SAFETENSORS)
    with pytest.raises(CheckpointError, match=f"its header would have {HEADER_SIZE} bytes"):
        read_tensors(path)


def test_pickled_tensors_that_claim_more_than_the_file_has(tmp_path: Path) -> None:
    """Views of a few bytes: strides of zero, or the same storage under many names."""
    path = tmp_path / "x.bin"
    one = torch.ones(1000)
    for tensors in ({"a": torch.ones(1).expand(10**9)}, {str(i): one for i in range(1000)}):
        torch.save(tensors, path)
        with pytest.raises(CheckpointError, match=r"x\.bin: its tensors claim \d+ bytes"):
            read_tensors(path)


def test_safetensors_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    torch.save(TENSORS, path)
    with pytest.raises(CheckpointError, match="not a valid safetensors file"):
        read_tensors(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(tmp_path / "missing.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"folder\.safetensors: not a regular file"):
        read_tensors(tmp_path / "folder.safetensors")


class Intruder:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o700)


def test_pickled_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save(TENSORS, path)
    loaded = read_tensors(path)
    assert all(torch.equal(loaded[key], TENSORS[key]) for key in TENSORS)
    torch.save({"step": 3, **TENSORS}, path)
    with pytest.raises(CheckpointError, match="expected a mapping from names to tensors"):
        read_tensors(path)
    torch.save(list(TENSORS.values()), path)
    with pytest.raises(CheckpointError, match="expected a mapping from names to tensors"):
        read_tensors(path)
    with pytest.raises(CheckpointError, match=r"missing\.bin: cannot be read"):
        read_tensors(tmp_path / "missing.bin")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pkl", ".pth"])
def test_pickled_code_does_not_run(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    target = tmp_path / "made"
    torch.save({"a": Intruder(target)}, path)
    with pytest.raises(CheckpointError, match="not a file of plain weights"):
        read_tensors(path)
    path.write_bytes(pickle.dumps(Intruder(target), protocol=2))
    with pytest.raises(CheckpointError, match="not a file of plain weights"):
        read_tensors(path)
    assert not target.exists()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_pickle(work: Path, data: st.DataObject) -> None:
    path = work / "damaged.bin"
    torch.save(TENSORS, path)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[position] = data.draw(st.integers(0, 255))
    else:
        del content[position:]
    path.write_bytes(content)
    read_or_refuse(path)
