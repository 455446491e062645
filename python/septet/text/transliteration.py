"""Any text as ASCII, close enough to be read aloud by an English voice.

The spellings are those that the published text-to-speech networks were trained with: digraphs for
Cyrillic and Greek, pinyin for Chinese characters, a plain letter for a letter with marks, two
hyphens for a long dash. What has no spelling here, such as an emoji, is left out.
"""

# ruff: noqa: RUF001  # look-alikes of ASCII characters are what this is about

from __future__ import annotations

import functools
import lzma
import unicodedata
from importlib import resources

_ASSET = "pinyin.txt.xz"


def _pairs(text: str) -> dict[str, str]:
    """Read "ж zh" pairs separated by spaces; a second one for capitals is derived."""
    words = text.split()
    small = dict(zip(words[::2], words[1::2], strict=True))
    return {key.upper(): value.capitalize() for key, value in small.items()} | small


_PUNCTUATION: dict[str, str] = {
    **dict.fromkeys("‘’‛′ʻʼ´", "'"),
    **dict.fromkeys("“”‟", '"'),
    "‚": ",",
    "„": ",,",
    "″": "''",
    "‹": "<",
    "›": ">",
    "«": "<<",
    "»": ">>",
    **dict.fromkeys("‐‑‒–−", "-"),
    **dict.fromkeys("—―", "--"),
    "…": "...",
    "•": "*",
    "·": "*",
    "¡": "!",
    "¿": "?",
    "⁄": "/",
    "、": ", ",
    "。": ". ",
    "\u200b": " ",
}
_SIGNS: dict[str, str] = {
    "¢": "C/",
    "£": "PS",
    "€": "EUR",
    "¥": "Y=",
    "§": "SS",
    "¶": "P",
    "©": "(c)",
    "®": "(r)",
    "™": "(tm)",
    "°": "deg",
    "±": "+-",
    "×": "x",
    "÷": "/",
    "µ": "u",
    "№": "No. ",
}
_LETTERS = {
    **_pairs(
        "æ ae œ oe ø o đ d ð d þ th ł l ħ h ŋ ng ŧ t ĸ k "
        # Greek
        "α a β b γ g δ d ε e ζ z η e θ th ι i κ k λ l μ m ν n ξ x ο o π p ρ r σ s τ t υ u φ ph "
        "χ kh ψ ps ω o "
        # Cyrillic: Russian, then letters of Ukrainian, Belarusian, Serbian and Macedonian
        "а a б b в v г g д d е e ё io ж zh з z и i й i к k л l м m н n о o п p р r с s т t у u "
        "ф f х kh ц ts ч ch ш sh щ shch ы y э e ю iu я ia "
        "є ie і i ї yi ґ g ў u ђ dj ј j љ lj њ nj ћ tsh џ dzh ѓ gj ќ kj ѕ dz"
    ),
    "ß": "ss",
    "ẞ": "Ss",
    "ı": "i",
    "ς": "s",
    "ъ": "'",
    "Ъ": "'",
    "ь": "'",
    "Ь": "'",
}
_TABLE = _PUNCTUATION | _SIGNS | _LETTERS
_KANA = {"si": "shi", "ti": "chi", "tu": "tsu"}
#: Scripts whose letters are called by their sound in Unicode.
_NAMED = ("HIRAGANA LETTER ", "KATAKANA LETTER ", "HANGUL SYLLABLE ")


def to_ascii(text: str) -> str:
    """Transliterate a text to ASCII; what has no transliteration is left out."""
    if text.isascii():
        return text
    return "".join(c if c.isascii() else _spelling(c) for c in text)


@functools.lru_cache(maxsize=4096)
def _spelling(character: str) -> str:
    found = _TABLE.get(character)
    if found is not None:
        return found
    if "\u4e00" <= character <= "\u9fff":
        syllable = _pinyin().get(character)
        return f"{syllable} " if syllable else ""
    name = unicodedata.name(character, "")
    for start in _NAMED:
        if name.startswith(start):
            sound = name.removeprefix(start).removeprefix("SMALL ").lower()
            return _KANA.get(sound, sound)
    # compatibility forms and marks come apart; the marks are dropped
    parts = unicodedata.normalize("NFKD", character)
    if parts == character:
        return ""
    plain = "".join(c if c.isascii() else _TABLE.get(c, "") for c in parts)
    return f" {plain} " if "⁄" in parts else plain  # a fraction stands apart from its number


@functools.cache
def _pinyin() -> dict[str, str]:
    """Return the readings of Chinese characters, read at the first call."""
    packed = (resources.files("septet") / "assets" / _ASSET).read_bytes()
    lines = lzma.decompress(packed).decode().split("\n")
    return {
        character: syllable.capitalize()
        for syllable, _, characters in (line.partition(" ") for line in lines)
        for character in characters
    }
