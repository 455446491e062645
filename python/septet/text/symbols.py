"""The symbols that Grad-TTS reads, in the order of its embedding."""

from __future__ import annotations

from collections.abc import Iterable

_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()

#: Phonemes of ARPAbet as CMUdict writes them; vowels plain and with their three degrees of stress.
PHONEMES: tuple[str, ...] = tuple(
    sorted([*_CONSONANTS, *(v + stress for v in _VOWELS for stress in ("", "0", "1", "2"))])
)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PADDING = "_"

#: Padding, hyphen, punctuation, letters, and phonemes with a mark that tells them from letters.
SYMBOLS: tuple[str, ...] = (
    _PADDING,
    "-",
    *"!'(),.:;? ",
    *_LETTERS,
    *(f"@{phoneme}" for phoneme in PHONEMES),
)
#: Goes between all symbols and around them, a pause of its own.
BLANK_ID = len(SYMBOLS)

_IDS = {symbol: index for index, symbol in enumerate(SYMBOLS) if symbol != _PADDING}
SPACE_ID = _IDS[" "]


def symbol_ids(symbols: Iterable[str]) -> list[int]:
    """Return the ids of symbols; those that Grad-TTS does not know are left out."""
    return [_IDS[symbol] for symbol in symbols if symbol in _IDS]


def phoneme_ids(phonemes: str) -> list[int]:
    """Return the ids of phonemes separated by spaces; unknown ones are left out."""
    return symbol_ids(f"@{phoneme}" for phoneme in phonemes.split())


def with_blanks(ids: Iterable[int]) -> list[int]:
    """Return ids with the blank before, between and after them."""
    result = [BLANK_ID]
    for index in ids:
        result += [index, BLANK_ID]
    return result
