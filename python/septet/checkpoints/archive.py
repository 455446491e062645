"""Looking at the zip archive that torch writes, before anything in it is read.

torch stores its tensors uncompressed. An archive that does not could grow without bound while it
is being read, and one whose directory can be read in two ways could show us other members than
those torch reads. Both are refused.
"""

from __future__ import annotations

import struct
import zipfile
from typing import TYPE_CHECKING

from septet.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

MAGIC = b"PK\x03\x04"
# Names of tensors and optimizer entries; a checkpoint of a thousand tensors takes 100 KB.
MAX_PICKLE_BYTES = 16 << 20
MAX_MEMBERS = 100_000

_END = struct.Struct("<4s4H2LH")
_END_MAGIC = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_MAGIC = b"PK\x06\x07"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_MAGIC = b"PK\x06\x06"


def check_archive(path: Path, size: int) -> None:
    """Refuse an archive that torch would not have written.

    Args:
        path: A file that starts with :data:`MAGIC`.
        size: Its size.

    Raises:
        CheckpointError: If the directory is damaged or ambiguous, a member is compressed,
            encrypted or there twice, or the members claim more bytes than the file has.
    """
    try:
        with path.open("rb") as file:
            _check_directory(file, size)
            with zipfile.ZipFile(file) as archive:
                _check_members(archive.infolist(), size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: not an archive that torch wrote: {error}") from error


def _check_directory(file: BinaryIO, size: int) -> None:
    """Check that the directory lies where every reader looks for it."""
    if size < _END.size:
        raise ValueError("truncated")
    end_at = size - _END.size
    file.seek(end_at)
    magic, _, _, _, count, length, offset, comment = _END.unpack(file.read(_END.size))
    if magic != _END_MAGIC or comment:
        raise ValueError("it does not end with the end of its directory")
    located = b""
    if end_at >= _LOCATOR.size:
        file.seek(end_at - _LOCATOR.size)
        located = file.read(_LOCATOR.size)
    if located.startswith(_LOCATOR_MAGIC):
        _, _, end_at, _ = _LOCATOR.unpack(located)
        if end_at + _END64.size + _LOCATOR.size + _END.size != size:
            raise ValueError("its directory is not in one place")
        file.seek(end_at)
        fields = _END64.unpack(file.read(_END64.size))
        magic, count, length, offset = fields[0], *fields[7:]
        if magic != _END64_MAGIC:
            raise ValueError("its directory is damaged")
    if offset + length != end_at:
        raise ValueError("its directory is not in one place")
    if count > MAX_MEMBERS:
        raise ValueError(f"it has {count} members, more than {MAX_MEMBERS}")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"it has {len(members)} members, more than {MAX_MEMBERS}")
    names: set[str] = set()
    total = 0
    for member in members:
        name = member.filename
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"member {name!r} is compressed")
        if member.flag_bits & 0x1:
            raise ValueError(f"member {name!r} is encrypted")
        # torch compares names without regard to case
        if name.lower() in names:
            raise ValueError(f"member {name!r} is there twice")
        names.add(name.lower())
        if name.endswith(".pkl") and member.file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"member {name!r} has more than {MAX_PICKLE_BYTES} bytes")
        total += member.file_size
    if total > size:
        raise ValueError(f"its members claim {total} bytes, the file has {size}")
