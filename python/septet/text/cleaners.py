"""From written English to what is said: ASCII, lower case, numbers and abbreviations spelled."""

from __future__ import annotations

import re

from septet.text.numbers import normalize_numbers
from septet.text.transliteration import to_ascii

_ABBREVIATIONS = {
    # in the order in which the authors replace them
    "mrs": "misess",
    "mr": "mister",
    "dr": "doctor",
    "st": "saint",
    "co": "company",
    "jr": "junior",
    "maj": "major",
    "gen": "general",
    "drs": "doctors",
    "rev": "reverend",
    "lt": "lieutenant",
    "hon": "honorable",
    "sgt": "sergeant",
    "capt": "captain",
    "esq": "esquire",
    "ltd": "limited",
    "col": "colonel",
    "ft": "fort",
}
_ABBREVIATION = re.compile(rf"\b({'|'.join(_ABBREVIATIONS)})\.")
_SPACES = re.compile(r"\s+")


def clean_english(text: str) -> str:
    """Clean a text as Grad-TTS, and Tacotron before it, were trained to read it.

    Args:
        text: Any text; "Mr. Smith paid $12.50" becomes "mister smith paid twelve dollars, fifty
            cents".

    Returns:
        ASCII in lower case without digits, with single spaces.
    """
    text = normalize_numbers(to_ascii(text).lower())
    text = _ABBREVIATION.sub(lambda match: _ABBREVIATIONS[match[1]], text)
    return _SPACES.sub(" ", text)
