"""Reading files that may be damaged or hostile, and writing files that are never half there.

Whatever is wrong with a file ends in a :class:`septet.errors.CheckpointError` that names it.
Nothing in a file is ever run: pickled weights go through torch's restricted reader.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WEIGHTS_STEM = "diffusion_pytorch_model"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# A configuration takes a few kilobytes, a tokenizer vocabulary a few megabytes.
MAX_JSON_BYTES = 64 << 20


def weights_name(variant: str | None = None, suffix: str = ".safetensors") -> str:
    """Return the file name of a model's weights, e.g. ``diffusion_pytorch_model.fp16.bin``."""
    return f"{WEIGHTS_STEM}{suffix}" if variant is None else f"{WEIGHTS_STEM}.{variant}{suffix}"


def find_weights(
    folder: Path, *, variant: str | None = None, use_safetensors: bool | None = None
) -> Path:
    """Find the weights file of a model folder, safetensors first.

    Args:
        folder: The folder with the model's ``config.json``.
        variant: Part of the file name, such as "fp16"; another variant is never taken instead.
        use_safetensors: True allows only safetensors files, False only pickled ones.

    Raises:
        CheckpointError: If there is none.
    """
    suffixes = [".safetensors", ".bin"]
    if use_safetensors is not None:
        suffixes = suffixes[:1] if use_safetensors else suffixes[1:]
    names = [weights_name(variant, suffix) for suffix in suffixes]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if any((folder / f"{name}.index.json").is_file() for name in names):
        raise CheckpointError(f"{folder}: weights in several shards are not supported")
    raise CheckpointError(f"{folder}: no weights found, expected {' or '.join(names)}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, as configurations are.

    Args:
        path: A UTF-8 file.

    Raises:
        CheckpointError: If the file is missing, too large, no JSON, not an object, nested too deep,
            or holds a number that is not finite.
    """
    if _size(path) > MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: too large, expected at most {MAX_JSON_BYTES} bytes")
    try:
        text = path.read_bytes().decode()
        value = json.loads(text, parse_constant=_not_finite, parse_float=_finite)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: nested too deep") from error
    except ValueError as error:  # not UTF-8, not JSON, or not finite
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _size(path: Path) -> int:
    """Return the size of a regular file; reading anything else might never end."""
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: not a regular file")
    return status.st_size


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _not_finite(text)
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors onto the CPU.

    Args:
        path: A safetensors file, or, by its suffix, one that torch pickled.

    Returns:
        The tensors by name. Those of a safetensors file are mapped into memory, not read yet.

    Raises:
        CheckpointError: If the file is missing, truncated, not what its suffix says, or holds
            anything but a mapping from names to tensors.
    """
    _size(path)
    if path.suffix in PICKLE_SUFFIXES:
        return _read_pickled(path)
    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: not a valid safetensors file: {error}") from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except Exception as error:
        # A damaged pickle can ask for any operation on any operand, and fail in any way.
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: not a file of plain weights: {reason}") from error
    if not isinstance(value, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items()
    ):
        raise CheckpointError(f"{path}: expected a mapping from names to tensors")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with sorted keys; the file appears complete or not at all."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    _write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; it appears complete or not at all."""
    contiguous = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    # Other readers refuse a file that does not say which library wrote it.
    metadata = {"format": "pt"}
    _write_atomically(path, lambda temporary: save_file(contiguous, temporary, metadata))


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then put it in place in one step."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        # Some writers make files that only their owner may read; a plain new file has the right
        # permissions.
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
