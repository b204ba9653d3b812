"""Numbers of a text in one form, whether written in digits or in words. Pure."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS: Final = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES: Final = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ORDINALS: Final = {
    "first": 1, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10,
    "eleventh": 11, "twelfth": 12, "thirteenth": 13, "twentieth": 20, "thirtieth": 30, "hundredth": 100,
}  # fmt: skip
_OTHERS: Final = {"half": "0.5", "quarter": "0.25", "dozen": "12", "twice": "2x", "double": "2x", "triple": "3x"}
_DIGITS: Final = re.compile(r"^[+-]?\d[\d,.:/-]*(st|nd|rd|th)?$")


def spoken(words: list[str]) -> list[tuple[int, int, str]]:
    """Numbers among words in lower case: (first place, place behind the last, value). Values compare as text.

    Of `two hundred and five` and `205`: `205`. Ordinals end with a dot: `third`, `3rd`: `3.`.
    """
    found: list[tuple[int, int, str]] = []
    place = 0
    while place < len(words):
        end, value = _at(words, place)
        if value:
            found.append((place, end, value))
        place = max(end, place + 1)
    return found


def _at(words: list[str], place: int) -> tuple[int, str]:
    word = words[place]
    if _DIGITS.match(word):
        return place + 1, _from_digits(word)
    if word in _ORDINALS:
        return place + 1, f"{_ORDINALS[word]}."
    if word in _OTHERS:
        return place + 1, _OTHERS[word]
    return _cardinal(words, place)


def _from_digits(word: str) -> str:
    """As it is written, without separators of thousands: `3.10` and `3.1` may be versions, or prices."""
    ordinal = word[-2:] in ("st", "nd", "rd", "th")
    digits = (word[:-2] if ordinal else word).rstrip(".,:/-")
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", digits):
        digits = digits.replace(",", "")
    return f"{digits}." if ordinal else digits


def _cardinal(words: list[str], place: int) -> tuple[int, str]:
    """A number in words that begins here; (place, "") if none does."""
    total = current = 0
    end = place
    room = 100  # what may follow is smaller than this: 10 after tens, nothing after units
    ordinal = False
    while end < len(words) and not ordinal:
        word = words[end]
        value = _UNITS.get(word) or _TENS.get(word) or (_ORDINALS.get(word) if end > place else None)
        if word == "and" and end > place and words[end - 1] in _SCALES and _follows(words, end + 1):
            pass
        elif value is not None and value < room:
            current, ordinal = current + value, word in _ORDINALS
            room = 10 if word in _TENS else 0
        elif word == "zero" and end == place:
            room = 0
        elif word in _SCALES and (end > place or _SCALES[word] >= 100):
            current = max(current, 1) * _SCALES[word]
            if word != "hundred":
                total, current = total + current, 0
            room = 100
        else:
            break
        end += 1
    if end == place:
        return place, ""
    return end, f"{total + current}." if ordinal else str(total + current)


def _follows(words: list[str], place: int) -> bool:
    return place < len(words) and (words[place] in _UNITS or words[place] in _TENS)
