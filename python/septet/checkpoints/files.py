"""Reading JSON that may be damaged or hostile, and writing files that are never half there.

Whatever is wrong with a file ends in a :class:`septet.errors.CheckpointError` that names it.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from typing import TYPE_CHECKING, Any, NoReturn

from septet.checkpoints.paths import regular_size
from septet.config import brief
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

# A configuration takes a few kilobytes, a tokenizer vocabulary a few megabytes.
MAX_JSON_BYTES = 64 << 20


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, as configurations are.

    Args:
        path: A UTF-8 file.

    Raises:
        CheckpointError: If the file is missing, too large, no JSON, not an object, nested too
            deep, has a key twice, or holds a number that is not finite.
    """
    if regular_size(path) > MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: too large, expected at most {MAX_JSON_BYTES} bytes")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_json(content, path)


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """Read a JSON object from bytes; see :func:`read_json`.

    Args:
        content: UTF-8 text.
        path: Where it comes from, for the error message.
    """
    try:
        value = json.loads(
            content.decode(),
            parse_constant=_not_finite,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
    except RecursionError as error:
        raise CheckpointError(f"{path}: nested too deep") from error
    except ValueError as error:  # not UTF-8, not JSON, not finite, or not unique
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _not_finite(text)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {brief(key)} is there twice")
            seen.add(key)
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with sorted keys; the file appears complete or not at all."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
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
