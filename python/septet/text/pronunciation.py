"""The CMU Pronouncing Dictionary: English words as phonemes."""

from __future__ import annotations

import functools
import lzma
import re
from importlib import resources
from typing import TYPE_CHECKING

from septet.checkpoints.paths import regular_size
from septet.errors import CheckpointError
from septet.text.symbols import PHONEMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

#: CMUdict has less than 4 MB.
MAX_BYTES = 64 << 20

_ASSET = "cmudict.txt.xz"
_ALTERNATIVE = re.compile(r"\([0-9]+\)")
_PHONEMES = frozenset(PHONEMES)


def parse_pronunciations(lines: Iterable[str]) -> dict[str, str]:
    """Read a dictionary in the format of CMUdict 0.7.

    Args:
        lines: Of the form ``WORD  PH ON EM ES``, with two spaces; further pronunciations have
            ``WORD(1)``. Lines that begin with neither a letter nor an apostrophe are skipped, as
            are pronunciations with phonemes that are not in :data:`PHONEMES`.

    Returns:
        The first pronunciation of each word, in upper case.
    """
    found: dict[str, str] = {}
    for line in lines:
        if not ("A" <= line[:1] <= "Z" or line[:1] == "'"):
            continue
        word, gap, phonemes = line.partition("  ")
        if word.endswith(")"):
            word = _ALTERNATIVE.sub("", word)
        # a third column, if there were one, would not count
        phonemes = phonemes.partition("  ")[0].strip()
        if gap and word not in found and _PHONEMES.issuperset(phonemes.split(" ")):
            found[word] = phonemes
    return found


@functools.cache
def cmudict() -> Mapping[str, str]:
    """Return the dictionary that comes with septet, CMUdict 0.7, read at the first call."""
    packed = (resources.files("septet") / "assets" / _ASSET).read_bytes()
    return parse_pronunciations(lzma.decompress(packed).decode("latin-1").split("\n"))


def read_pronunciations(path: Path) -> tuple[str, dict[str, str]]:
    """Read a dictionary file.

    Returns:
        Its content as it is, and what it says.

    Raises:
        CheckpointError: If the file is missing, implausibly large, or no dictionary.
    """
    size = regular_size(path)
    if size > MAX_BYTES:
        raise CheckpointError(f"{path}: has {size} bytes, more than {MAX_BYTES}")
    try:
        content = path.read_text(encoding="latin-1")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    entries = parse_pronunciations(content.split("\n"))
    if not entries:
        raise CheckpointError(f"{path}: no line of the form 'WORD  PH ON EM ES'")
    return content, entries
