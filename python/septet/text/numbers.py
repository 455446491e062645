"""Numbers as English words, in the forms that text-to-speech was trained on."""

from __future__ import annotations

import re

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = (
    " thousand million billion trillion quadrillion quintillion sextillion septillion octillion "
    "nonillion decillion"
).split(" ")
#: Numbers of more digits have no name here and are read digit by digit.
_MOST_DIGITS = 3 * len(_SCALES)
_IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}

_COMMAS = re.compile(r"[0-9][0-9,]+[0-9]")
_POUNDS = re.compile(r"£([0-9,]*[0-9]+)")
_DOLLARS = re.compile(r"\$([0-9.,]*[0-9]+)")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+")
_ORDINAL = re.compile(r"([0-9]+)(?:st|nd|rd|th)")
_NUMBER = re.compile(r"[0-9]+")


def cardinal(digits: str, andword: str = "") -> str:
    """Spell a number.

    Args:
        digits: Decimal digits.
        andword: Stands before tens and ones that follow something larger, such as "and".

    Returns:
        Such as "one million, two hundred thirty-four thousand, five hundred sixty-seven".
    """
    digits = digits.lstrip("0") or "0"
    if len(digits) > _MOST_DIGITS:
        return " ".join(_ONES[int(digit)] for digit in digits)
    conjunction = f" {andword} " if andword else " "
    groups = []
    for scale in range((len(digits) - 1) // 3, -1, -1):
        stop = len(digits) - 3 * scale
        number = int(digits[max(stop - 3, 0) : stop])
        if number:
            groups.append(f"{_below_thousand(number, conjunction)} {_SCALES[scale]}".rstrip())
    if len(groups) > 1 and " " not in groups[-1]:
        # a last group of one word is joined without a comma: "one thousand and one"
        groups[-2:] = [groups[-2] + conjunction + groups[-1]]
    return ", ".join(groups) or _ONES[0]


def ordinal(digits: str) -> str:
    """Spell an ordinal number, such as "one hundred and twenty-first" for "121"."""
    words = cardinal(digits, "and")
    start = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[start:]
    if last in _IRREGULAR_ORDINALS:
        last = _IRREGULAR_ORDINALS[last]
    else:
        last = (f"{last[:-1]}ie" if last.endswith("y") else last) + "th"
    return words[:start] + last


def year_or_number(digits: str) -> str:
    """Spell a number; one between 1000 and 3000 is read as a year."""
    number = int(digits) if len(digits) < _MOST_DIGITS else 0
    if not 1000 < number < 3000 or number == 2000:
        return cardinal(digits)
    century, rest = divmod(number, 100)
    if 2000 < number < 2010:
        return f"two thousand {_ONES[rest]}"
    if rest == 0:
        return f"{_below_hundred(century)} hundred"
    return f"{_below_hundred(century)} {_below_hundred(rest) if rest > 9 else 'oh ' + _ONES[rest]}"


def normalize_numbers(text: str) -> str:
    """Replace the numbers in an English text by words, amounts of money and ordinals first."""
    text = _COMMAS.sub(lambda m: m[0].replace(",", ""), text)
    text = _POUNDS.sub(r"\1 pounds", text)
    text = _DOLLARS.sub(lambda m: _dollars(m[1]), text)
    text = _DECIMAL.sub(lambda m: m[0].replace(".", " point "), text)
    text = _ORDINAL.sub(lambda m: ordinal(m[1]), text)
    return _NUMBER.sub(lambda m: year_or_number(m[0]), text)


def _below_hundred(number: int) -> str:
    if number < 20:
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return f"{_TENS[tens]}-{_ONES[ones]}" if ones else _TENS[tens]


def _below_thousand(number: int, conjunction: str) -> str:
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _below_hundred(rest)
    words = f"{_ONES[hundreds]} hundred"
    return words + conjunction + _below_hundred(rest) if rest else words


def _dollars(amount: str) -> str:
    """Return an amount in words and digits; digits after a point count as whole cents."""
    parts = amount.replace(",", "").split(".")
    if len(parts) > 2:
        return f"{amount} dollars"
    amounts = [part.lstrip("0") for part in (*parts, "")[:2]]
    said = [
        f"{number} {unit}{'' if number == '1' else 's'}"
        for number, unit in zip(amounts, ("dollar", "cent"), strict=True)
        if number
    ]
    return ", ".join(said) or "zero dollars"
