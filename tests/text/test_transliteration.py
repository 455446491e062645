"""Other scripts as ASCII."""

from __future__ import annotations

import string
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from septet.text.transliteration import to_ascii


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("naïve café Ångström Łódź", "naive cafe Angstrom Lodz"),
        ("Straße, Þór, Œuvre, ﬁn", "Strasse, Thor, Oeuvre, fin"),
        ("“Don’t” — he said… «no»", '"Don\'t" -- he said... <<no>>'),  # noqa: RUF001
        ("Щука и ёж", "Shchuka i iozh"),
        ("Αθήνα ψυχή", "Athena psukhe"),
        ("東京 你好", "Dong Jing  Ni Hao "),
        ("ひらがな カタカナ っ", "hiragana katakana tsu"),
        ("한국", "hangug"),
        ("½ №5 ①", " 1/2  No. 5 1"),
        ("ＡＢＣ１２３", "ABC123"),  # noqa: RUF001
        ("😀\u0301", ""),
    ],
)
def test_examples(text, expected):
    assert to_ascii(text) == expected


@given(st.text())
def test_the_result_is_ascii(text):
    assert to_ascii(text).isascii()


@given(st.text(alphabet=string.printable))
def test_ascii_stays(text):
    assert to_ascii(text) == text


def test_letters_with_marks_keep_their_letter():
    for code in range(0xC0, 0x250):
        parts = unicodedata.normalize("NFD", chr(code))
        if len(parts) > 1 and parts[0].isascii():
            assert to_ascii(chr(code)) == parts[0], hex(code)


def test_every_character_is_safe():
    for code in range(0, sys.maxunicode, 7):
        assert to_ascii(chr(code)).isascii()


def test_most_chinese_characters_have_a_reading():
    readings = [to_ascii(chr(code)) for code in range(0x4E00, 0x9FA6)]
    assert sum(bool(reading) for reading in readings) > 0.99 * len(readings)
    assert all(r.strip().isalpha() and r.endswith(" ") for r in readings if r)
