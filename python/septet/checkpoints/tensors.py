"""Reading and writing named tensors; what is read may be damaged or hostile.

Nothing in a file is ever run: pickled weights go through torch's restricted reader.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from septet.checkpoints.archive import MAGIC, MAX_PICKLE_BYTES, check_archive
from septet.checkpoints.files import parse_json, write_atomically
from septet.checkpoints.paths import regular_size
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# A thousand tensors take 100 KB; the format itself allows a hundred megabytes.
MAX_HEADER_BYTES = 16 << 20


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors onto the CPU.

    Args:
        path: A safetensors file, or, by its suffix, one that torch pickled.

    Returns:
        The tensors by name, mapped into memory where the format allows, not read yet.

    Raises:
        CheckpointError: If the file is missing, truncated, not what its suffix says, or holds
            anything but a mapping from names to tensors.
    """
    size = regular_size(path)
    if path.suffix in PICKLE_SUFFIXES:
        return as_tensors(read_pickled(path), path)
    _check_header(path, size)
    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: not a valid safetensors file: {error}") from error


def _check_header(path: Path, size: int) -> None:
    """Check what the library does not: the header's size, and that no name is there twice."""
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
            if length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path}: not a valid safetensors file: its header would have {length} bytes"
                )
            header = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    try:
        parse_json(header, path)
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: not a valid safetensors file: {reason}") from error


def read_pickled(path: Path, allowed: Sequence[type | tuple[type, str]] = ()) -> Any:
    """Read what torch pickled, through its restricted reader.

    Args:
        path: A file of ``torch.save``, of today's format or that before torch 1.6.
        allowed: Classes that may occur besides torch's; harmless ones, whose instances only hold
            attributes. A pair is a class of ours and the name in the file that it stands in for.

    Raises:
        CheckpointError: If the file is damaged, would run code, or is compressed.
    """
    size = regular_size(path)
    try:
        with path.open("rb") as file:
            is_archive = file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if is_archive:
        check_archive(path, size)
    try:
        # mapped, a tensor takes no memory of its own, and none beyond the end of the file
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except Exception as error:
        # A damaged pickle can ask for any operation on any operand, and fail in any way.
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: not a file of plain weights: {reason}") from error


def as_tensors(value: object, path: Path) -> dict[str, Tensor]:
    """Check that a pickled value is a mapping from names to tensors that the file really holds.

    Args:
        value: What :func:`read_pickled` returned, or a part of it.
        path: The file.

    Raises:
        CheckpointError: If it is something else, or the tensors claim more than the file has.
    """
    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items()
    ):
        raise CheckpointError(f"{path}: expected a mapping from names to tensors")
    # A few bytes can describe any number of huge tensors by strides of zero or shared storage.
    # Files of 2022 hold some weights under two names, so the sum may be a little larger.
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in value.values())
    size = regular_size(path)
    if claimed > 2 * size:
        raise CheckpointError(f"{path}: its tensors claim {claimed} bytes, the file has {size}")
    return dict(value)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; it appears complete or not at all."""
    contiguous = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    # Other readers refuse a file that does not say which library wrote it.
    metadata = {"format": "pt"}
    write_atomically(path, lambda temporary: save_file(contiguous, temporary, metadata))


__all__ = [
    "MAX_HEADER_BYTES",
    "MAX_PICKLE_BYTES",
    "PICKLE_SUFFIXES",
    "as_tensors",
    "read_pickled",
    "read_tensors",
    "write_tensors",
]
