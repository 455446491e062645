"""Byte-level byte pair encoding, as GPT-2 (Radford et al. 2019) and GLIDE have it."""

from __future__ import annotations

import functools
import gzip
import itertools
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from septet.checkpoints import file_inside, write_json
from septet.checkpoints.files import MAX_JSON_BYTES, parse_json, write_atomically
from septet.checkpoints.paths import is_file, regular_size
from septet.config import brief
from septet.errors import CheckpointError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

END_OF_TEXT = "<|endoftext|>"
#: The work grows with the square of a word's length; one of this length takes a second.
MAX_WORD_BYTES = 4096

_MERGES_ASSET = Path(__file__).resolve().parent.parent / "assets" / "gpt2_merges.txt.gz"
#: Names of vocabulary and merges: those of transformers, and the authors'.
_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
# Contractions, letters, numbers, anything else, each with the space before it; then spaces, of
# which the last belongs to the next word.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class GlideTokenizer:
    """Splits a text, in lower case, into ids of GPT-2's vocabulary.

    Any text can be encoded: what the vocabulary has no entry for is spelled in bytes. No mark is
    added at the beginning or end. The last id of the vocabulary is the padding.

    Args:
        vocab: Id of every token, 0 to the number of tokens less one. A token is written with one
            character per byte, see :func:`byte_characters`.
        merges: Pairs of tokens that are joined, the first ones first.

    Raises:
        ValueError: If the ids have gaps, or a byte or the result of a merge is no token.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
        self.vocab = dict(vocab)
        self.merges = list(merges)
        self._tokens = sorted(self.vocab, key=self.vocab.__getitem__)
        if [self.vocab[token] for token in self._tokens] != list(range(len(self._tokens))):
            raise ValueError("vocab must number its tokens from 0, without gaps")
        made = (first + second for first, second in self.merges)
        for token in (*byte_characters(), *made):
            if token not in self.vocab:
                raise ValueError(f"vocab must hold all bytes and merged pairs, but lacks {token!r}")
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""
        return len(self._tokens)

    @property
    def end_token(self) -> int:
        """Id of the padding."""
        return self.n_vocab - 1

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            ValueError: If it is no valid text, or a word is longer than :data:`MAX_WORD_BYTES`.
        """
        return list(self._ids(text))

    def _ids(self, text: str) -> Iterator[int]:
        """Go through the ids of a text; what is not asked for is not computed."""
        if not isinstance(text, str):
            raise ValueError(f"prompt must be a string, got {brief(text)}")
        characters = byte_characters()
        for match in _words().finditer(text.lower()):
            try:
                content = match[0].encode()
            except UnicodeEncodeError as error:  # half of a surrogate pair
                raise ValueError(f"prompt must be valid Unicode: {error}") from error
            if len(content) > MAX_WORD_BYTES:
                raise ValueError(
                    f"prompt must have words of at most {MAX_WORD_BYTES} bytes, got {len(content)}"
                )
            for piece in self._merge([characters[byte] for byte in content]):
                yield self.vocab[piece]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; bytes that are no valid text are replaced."""
        values = {character: byte for byte, character in enumerate(byte_characters())}
        text = "".join(self._tokens[index] for index in ids)
        return bytes(values[character] for character in text).decode(errors="replace")

    def __call__(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Encode texts to the same length, cutting long ones and padding short ones.

        Args:
            prompts: The texts; an empty one is all padding.
            length: Number of tokens.

        Returns:
            Ids ``[texts, length]`` int64, and booleans of the same shape, False for padding.

        Raises:
            ValueError: See :meth:`encode`.
        """
        rows = [list(itertools.islice(self._ids(prompt), length)) for prompt in prompts]
        padded = [row + [self.end_token] * (length - len(row)) for row in rows]
        mask = [[True] * len(row) + [False] * (length - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64), torch.tensor(mask, dtype=torch.bool)

    def _merge(self, pieces: list[str]) -> list[str]:
        """Join pairs, always the one of lowest rank, wherever it occurs, until none is left."""
        ranks = self._ranks
        while len(pieces) > 1:
            pairs = itertools.pairwise(pieces)
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            joined: list[str] = []
            for piece in pieces:
                # what was just joined is longer than the first of the pair: it is not joined again
                if joined and (joined[-1], piece) == best:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            pieces = joined
        return pieces

    # -- files ----------------------------------------------------------------------------------

    @classmethod
    def bundled(cls) -> GlideTokenizer:
        """Return the tokenizer of the published networks; its files come with septet."""
        merges = _read_merges(_MERGES_ASSET)
        # GPT-2's ids: the bytes, printable ones first, then the merges in order, then the end.
        in_order = sorted(byte_characters(), key=lambda character: (character > "\xff", character))
        tokens = [*in_order, *(first + second for first, second in merges), END_OF_TEXT]
        return cls({token: index for index, token in enumerate(tokens)}, merges)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, subfolder: str | None = None
    ) -> GlideTokenizer:
        """Read the files of a byte pair encoding.

        Args:
            folder: A checkpoint folder with ``vocab.json`` and ``merges.txt``, or with the
                authors' ``encoder.json`` and ``vocab.bpe``.
            subfolder: The folder in it with the files.

        Raises:
            CheckpointError: If a file is missing, damaged, or does not suit the other.
        """
        root = Path(folder)
        where = root / (subfolder or "")
        for names in _FILES:
            if all(is_file(where / name) for name in names):
                vocab_file, merges_file = (file_inside(root, subfolder, name) for name in names)
                break
        else:
            expected = ", or ".join(" and ".join(names) for names in _FILES)
            raise CheckpointError(f"{where}: no byte pair encoding found, expected {expected}")
        vocab = parse_json(_read_bytes(vocab_file), vocab_file)
        for token, index in vocab.items():
            if isinstance(index, bool) or not isinstance(index, int):
                raise CheckpointError(f"{vocab_file}: {brief(token)} must have an integer id")
        merges = _read_merges(merges_file)
        try:
            return cls(vocab, merges)
        except ValueError as error:
            raise CheckpointError(f"{vocab_file}: {error}") from error

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``vocab.json`` and ``merges.txt``, each complete, into a folder."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges), ""]
        write_json(path / "vocab.json", self.vocab)
        write_atomically(
            path / "merges.txt", lambda file: file.write_text("\n".join(lines), encoding="utf-8")
        )


@functools.cache
def byte_characters() -> tuple[str, ...]:
    """Return a printable character for every byte: itself where it is one in Latin-1.

    The others get the characters from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


@functools.cache
def _words() -> Any:
    import regex

    return regex.compile(_WORDS)


def _read_bytes(path: Path) -> bytes:
    """Read a file of limited size, unpacked if it is compressed."""
    if regular_size(path) > MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: too large, expected at most {MAX_JSON_BYTES} bytes")
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read(MAX_JSON_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """Read a list of merges: after a line with the version one pair per line."""
    try:
        lines = _read_bytes(path).decode().split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8: {error}") from error
    return list(_pairs(lines, path))


def _pairs(lines: Sequence[str], path: Path) -> Iterator[tuple[str, str]]:
    start = 1 if lines[0].startswith("#version") else 0
    for number, line in enumerate(lines[start:], start + 1):
        parts = line.split()
        if len(parts) == 2:
            yield parts[0], parts[1]
        elif parts:
            raise CheckpointError(f"{path}: line {number} must be a pair, got {brief(line)}")
