"""Amounts as people write them: bytes (`512Mi`), cores (`500m`), seconds (`1m30s`). Pure.

Each function takes a number or a text and raises `ValueError` with a sentence that says what would be right.
"""

from __future__ import annotations

import math
import re
from typing import Final

_BYTE_UNITS: Final = {
    "": 1,
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
    "Pi": 1 << 50,
}
_SECOND_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
_BYTES: Final = re.compile(rf"({_NUMBER})\s*([kKMGTP]i?)?B?")
_CORES: Final = re.compile(rf"({_NUMBER})\s*(m)?")
_DURATION_PART: Final = re.compile(rf"({_NUMBER})\s*(ms|s|m|h)")
_DURATION: Final = re.compile(rf"(?:{_NUMBER}\s*(?:ms|s|m|h)\s*)+")
_MAX_LETTERS: Final = 40


def parse_bytes(value: object) -> int:
    """`536870912`, `"512Mi"`, `"1.5G"` → bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    match = _BYTES.fullmatch(_text(value))
    if match is None:
        raise ValueError(f"{_shown(value)} is not an amount of bytes such as 512Mi, 2Gi or 1000000")
    number, unit = match.group(1), match.group(2) or ""
    if "." in number:
        return round(float(number) * _BYTE_UNITS[unit])
    return int(number) * _BYTE_UNITS[unit]


def parse_cores(value: object) -> float:
    """`0.5`, `"0.5"`, `"500m"` → cores."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _CORES.fullmatch(_text(value))
    if match is None:
        raise ValueError(f"{_shown(value)} is not a number of cores such as 2, 0.25 or 500m")
    return float(match.group(1)) / (1000.0 if match.group(2) else 1.0)


def parse_seconds(value: object) -> float:
    """`90`, `"90s"`, `"1m30s"`, `"500ms"` → seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = _text(value)
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{_shown(value)} is not a time such as 30s, 1m30s, 500ms or 90 (seconds)")
    return math.fsum(float(number) * _SECOND_UNITS[unit] for number, unit in _DURATION_PART.findall(text))


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) and len(value) <= _MAX_LETTERS else ""


def _shown(value: object) -> str:
    text = str(value)
    return f"`{text if len(text) <= _MAX_LETTERS else text[: _MAX_LETTERS - 3] + '...'}`"
