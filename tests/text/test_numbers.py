"""Numbers as words, against the package that the authors used."""

from __future__ import annotations

import inflect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from septet.text.numbers import cardinal, normalize_numbers, ordinal

ENGINE = inflect.engine()
# inflect has names up to decillions
NUMBERS = st.one_of(st.integers(0, 10**5), st.integers(0, 10**36 - 1))


@given(NUMBERS)
def test_cardinals(number):
    assert cardinal(str(number)) == ENGINE.number_to_words(number, andword="")
    assert cardinal(str(number), "and") == ENGINE.number_to_words(number)


@given(NUMBERS)
def test_ordinals(number):
    assert ordinal(str(number)) == ENGINE.number_to_words(f"{number}th")


@given(st.integers(1001, 2999))
def test_years(number):
    pairs = ENGINE.number_to_words(number, andword="", zero="oh", group=2).replace(", ", " ")
    if number % 100 == 0:
        pairs = f"{ENGINE.number_to_words(number // 100)} hundred"
    if 2000 <= number < 2010:
        pairs = ENGINE.number_to_words(number, andword="")
    assert normalize_numbers(str(number)) == pairs


@given(st.text(alphabet="0123456789,.$£ stndrdha-", max_size=30))
def test_any_text_loses_its_digits(text):
    assert not any(character.isdigit() for character in normalize_numbers(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7" * 37, "seven " * 36 + "seven"),  # inflect gives up
        ("9" * 5000, "nine " * 4999 + "nine"),
        ("$.50", "fifty cents"),
        ("$1,50", "one hundred fifty dollars"),
        ("$0.00", "zero dollars"),
        ("$1.2.3", "one point two.three dollars"),
        ("£1,000", "one thousand pounds"),
        ("007", "seven"),
        ("no. 1st", "no. first"),
    ],
)
def test_odd_amounts(text, expected):
    assert normalize_numbers(text) == expected
