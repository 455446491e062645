"""A pickled file is looked at before torch reads it: no bomb goes off, nothing is hidden."""

from __future__ import annotations

import io
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.checkpoints import archive
from septet.checkpoints.archive import check_archive
from septet.checkpoints.tensors import read_tensors
from septet.errors import CheckpointError

TENSORS = {"a": torch.arange(6.0), "b": torch.ones(4, dtype=torch.float16)}


def saved() -> bytes:
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer)
    return buffer.getvalue()


SAVED = saved()


def rewritten(change: Callable[[str, bytes], tuple[str, bytes] | None], method: int = 0) -> bytes:
    """Write the archive again with other members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SAVED)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for info in old.infolist():
            member = change(info.filename, old.read(info))
            if member is not None:
                new.writestr(*member)
    return buffer.getvalue()


def same(name: str, content: bytes) -> tuple[str, bytes]:
    return name, content


def refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)


def test_what_torch_writes_is_fine(tmp_path: Path) -> None:
    for content in (SAVED, rewritten(same)):
        (tmp_path / "x.pt").write_bytes(content)
        loaded = read_tensors(tmp_path / "x.pt")
        assert all(torch.equal(loaded[key], TENSORS[key]) for key in TENSORS)


def test_compressed(tmp_path: Path) -> None:
    content = rewritten(same, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "x.pt", content, r"not an archive that torch wrote: member .* is compressed")


def test_bomb(tmp_path: Path) -> None:
    """A gigabyte of zeros in a megabyte is refused without being inflated."""
    path = tmp_path / "bomb.bin"
    zeros = bytes(1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("archive/data.pkl", "archive/data/0"):
            with file.open(name, "w") as member:
                for _ in range(512):
                    member.write(zeros)
    assert path.stat().st_size < 2 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="is compressed"):
        read_tensors(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_overlapping_members(tmp_path: Path) -> None:
    """Many directory entries for one large member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data/0", bytes(10_000))
        info = file.infolist()[0]
        for index in range(50):
            twin = zipfile.ZipInfo(f"archive/data/{index + 1}")
            twin.header_offset, twin.CRC = info.header_offset, info.CRC
            twin.file_size = twin.compress_size = info.file_size
            file.filelist.append(twin)
    refused(tmp_path / "x.pt", buffer.getvalue(), "its members claim 510000 bytes, the file has")


def test_member_twice(tmp_path: Path) -> None:
    buffer = io.BytesIO(SAVED)
    with zipfile.ZipFile(buffer, "a") as file:
        name = file.infolist()[0].filename
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr(name, b"other")
    refused(tmp_path / "x.pt", buffer.getvalue(), "is there twice")


def test_huge_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_PICKLE_BYTES", 50)
    refused(tmp_path / "x.pt", SAVED, r"member '.*data\.pkl' has more than 50 bytes")


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    refused(tmp_path / "x.pt", SAVED, r"it has \d+ members, more than 3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SAVED + b"tail", "does not end with the end of its directory"),
        (SAVED[:4] + b"\0" * 60 + SAVED[4:], "directory is not in one place"),
        (SAVED[:-2] + b"\1\0" + b"c", "does not end with the end of its directory"),
        (SAVED[:-1], "does not end with the end of its directory"),
        (SAVED[:10], "truncated"),
        (b"PK\x03\x04", "truncated"),
    ],
)
def test_directory_that_can_be_read_in_two_ways(
    tmp_path: Path, content: bytes, message: str
) -> None:
    refused(tmp_path / "x.pt", content, message)


def test_two_archives_in_one_file(tmp_path: Path) -> None:
    """What another reader finds first must not be something else."""
    end = SAVED[-22:]
    size, offset = struct.unpack("<2L", end[12:20])
    both = SAVED + rewritten(same, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "x.pt", both, "not in one place")
    forged = both[:-22] + end[:12] + struct.pack("<2L", size, offset) + end[20:]
    refused(tmp_path / "x.pt", forged, "not in one place")


def test_directory_of_large_files(tmp_path: Path) -> None:
    """The 64-bit form, which torch always writes and other tools do over 4 GB."""
    assert SAVED[-42:-38] == b"PK\x06\x07"
    small = rewritten(same)
    body, end = small[:-22], small[-22:]
    count, size, offset = struct.unpack("<H2L", end[10:20])
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    for at, message in ((len(body), None), (len(body) - 1, "not in one place|damaged")):
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
        content = body + record + locator + end
        if message is None:
            (tmp_path / "x.pt").write_bytes(content)
            check_archive(tmp_path / "x.pt", len(content))
        else:
            refused(tmp_path / "x.pt", content, message)


def test_sizes_that_lie(tmp_path: Path) -> None:
    """A member that claims to be longer than it is ends in an error, not outside of the file."""
    at = SAVED.rindex(b"PK\x01\x02")
    for position in (20, 24):  # the two sizes of the last directory entry
        content = bytearray(SAVED)
        content[at + position : at + position + 4] = struct.pack("<L", 2**31)
        refused(tmp_path / "x.pt", bytes(content), "not an archive that torch wrote")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(position=st.integers(0, len(SAVED) - 1), value=st.integers(0, 255))
def test_archive_with_a_changed_byte(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.pt"
    content = bytearray(SAVED)
    content[position] = value
    path.write_bytes(content)
    try:
        read_tensors(path)
    except CheckpointError as error:
        if str(path) not in str(error):
            raise


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.binary(max_size=80))
def test_archive_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pt"
    for content in (data, b"PK\x03\x04" + data, SAVED[:-22] + data, data + SAVED[-22:]):
        path.write_bytes(content)
        try:
            read_tensors(path)
        except CheckpointError as error:
            if str(path) not in str(error):
                raise
