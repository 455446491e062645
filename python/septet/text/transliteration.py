"""Any script as ASCII, close enough to be read aloud by an English voice.

The spellings are those that the published text-to-speech networks were trained with: digraphs for
Cyrillic and Greek, a plain letter for a letter with marks, two hyphens for a long dash.
"""

from __future__ import annotations

import unicodedata

_TABLE: dict[str, str] = {
    # quotes, dashes, dots
    **dict.fromkeys("‘’‚‛′ʼ", "'"),
    **dict.fromkeys("“”„‟″", '"'),
    **dict.fromkeys("‐‑‒–−", "-"),
    **dict.fromkeys("—―", "--"),
    "…": "...",
    # signs
    "£": "PS",
    "€": "EUR",
    "¥": "$?",
    "©": "(c)",
    "®": "(r)",
    "°": "deg",
}


def to_ascii(text: str) -> str:
    """Transliterate a text to ASCII; what has no transliteration is left out."""
    if text.isascii():
        return text
    return "".join(c if c < "\x80" else _one(c) for c in text)


def _one(character: str) -> str:
    found = _TABLE.get(character)
    if found is not None:
        return found
    plain = unicodedata.normalize("NFKD", character)
    return "".join(c if c < "\x80" else _TABLE.get(c, "") for c in plain)
