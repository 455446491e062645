"""The text front end of Grad-TTS: from a sentence to symbol ids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from septet.checkpoints.files import read_json, write_atomically, write_json
from septet.checkpoints.paths import file_inside, is_file
from septet.config import FrozenConfig, check_bool
from septet.errors import CheckpointError
from septet.text.cleaners import clean_english
from septet.text.pronunciation import cmudict, read_pronunciations
from septet.text.symbols import BLANK_ID, SPACE_ID, SYMBOLS, phoneme_ids, symbol_ids, with_blanks

if TYPE_CHECKING:
    import os

CONFIG_NAME = "tokenizer_config.json"
DICTIONARY_NAME = "dict_file.txt"

_BRACES = re.compile(r"(.*?)\{(.+?)\}(.*)")
#: A word inside what stands between two spaces, with punctuation before and after it.
_WORD = re.compile(r"([^a-z]*)(.*?)([^a-z]*)", re.DOTALL)


class GradTTSTokenizer:
    """Cleans a sentence, looks its words up in a pronouncing dictionary, spells the others.

    Args:
        strip_punctuation: Whether punctuation is set aside before a word is looked up, and a
            compound is looked up in parts. False is what the published networks were trained
            with: "world," is not found and is spelled in letters.
        add_blank: Whether a blank goes before, between and after the symbols.
        dictionary: Content of a pronouncing dictionary in the format of CMUdict 0.7 as read by
            :func:`septet.text.read_pronunciations`; None is CMUdict itself.

    Attributes:
        config: The options, read-only.
    """

    #: Number of ids, the blank included.
    vocab_size: ClassVar[int] = len(SYMBOLS) + 1
    blank_id: ClassVar[int] = BLANK_ID

    def __init__(
        self,
        strip_punctuation: bool = False,
        add_blank: bool = True,
        dictionary: tuple[str, Mapping[str, str]] | None = None,
    ) -> None:
        check_bool("strip_punctuation", strip_punctuation)
        check_bool("add_blank", add_blank)
        self.config = FrozenConfig(strip_punctuation=strip_punctuation, add_blank=add_blank)
        self._dictionary = dictionary

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a sentence.

        Args:
            text: A sentence; phonemes of ARPAbet may stand in braces, "Turn {L EH1 F T}". As in
                the authors' code, words before such a group are spelled in letters.

        Raises:
            ValueError: If it is no string, or holds nothing that can be read.
        """
        ids = self.symbol_ids(text)
        if all(index == SPACE_ID for index in ids):
            raise ValueError(f"text must hold something to read, got {text!r}")
        return with_blanks(ids) if self.config.add_blank else ids

    def symbol_ids(self, text: str) -> list[int]:
        """Return the ids of a sentence without blanks; none if there is nothing to read.

        Raises:
            ValueError: If ``text`` is no string.
        """
        if not isinstance(text, str):
            raise ValueError(f"text must be a string, got {type(text).__name__}")
        ids: list[int] = []
        while match := _BRACES.match(text):
            before, phonemes, text = match.groups()
            ids += symbol_ids(clean_english(before)) + phoneme_ids(phonemes)
        if text:
            for word in clean_english(text).split(" "):
                ids += [*self._word_ids(word), SPACE_ID]
        return ids[:-1] if ids[-1:] == [SPACE_ID] else ids

    def _word_ids(self, word: str) -> list[int]:
        """Return the ids of what stands between two spaces."""
        pronunciations = cmudict() if self._dictionary is None else self._dictionary[1]
        phonemes = pronunciations.get(word.upper())
        if phonemes is not None:
            return phoneme_ids(phonemes)
        if not self.config.strip_punctuation:
            return symbol_ids(word)
        match = _WORD.fullmatch(word)
        assert match is not None
        before, core, after = match.groups()
        if before or after:
            return symbol_ids(before) + self._word_ids(core) + symbol_ids(after)
        if "-" in core:
            parts = [self._word_ids(part) for part in core.split("-") if part]
            return [index for part in parts for index in (*part, SPACE_ID)][:-1]
        return symbol_ids(core)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, subfolder: str | None = None
    ) -> GradTTSTokenizer:
        """Load a tokenizer from a folder.

        Args:
            folder: May hold ``dict_file.txt``, a dictionary, and ``tokenizer_config.json``, the
                options; what is missing has its default.
            subfolder: A folder in it to look in instead.

        Raises:
            CheckpointError: If a file is damaged.
        """
        root = Path(folder)
        options: dict[str, Any] = {}
        config_path = file_inside(root, subfolder, CONFIG_NAME)
        if is_file(config_path):
            given = read_json(config_path)
            # a file of 2022 holds options of transformers' base class, which mean nothing here
            options = {k: given[k] for k in ("strip_punctuation", "add_blank") if k in given}
        path = file_inside(root, subfolder, DICTIONARY_NAME)
        dictionary = read_pronunciations(path) if is_file(path) else None
        try:
            return cls(dictionary=dictionary, **options)
        except ValueError as error:
            raise CheckpointError(f"{config_path}: {error}") from error

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the options, and the dictionary unless it is CMUdict as it comes with septet."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        if self._dictionary is not None:
            content = self._dictionary[0].encode("latin-1")
            write_atomically(path / DICTIONARY_NAME, lambda file: Path(file).write_bytes(content))
        write_json(path / CONFIG_NAME, {"tokenizer_class": type(self).__name__, **self.config})
