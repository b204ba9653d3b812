"""One thing that is wrong with a spec, and the checks that all parts of a spec share. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from serving.errors import SpecError
from serving.types import NAME_RULE, is_name

MAX_ENTRIES: Final = 256  # of any map or list of a spec
MAX_TIMEOUT_S: Final = 24 * 3600.0
MIN_RESOURCE: Final = 0.0001  # Ray counts in ten-thousandths

LABEL_KEY: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the `field` path, a sentence, and where they help the allowed values and the closest."""

    field: str
    message: str
    allowed: tuple[str, ...] = ()
    closest: str = ""

    def __str__(self) -> str:
        text = f"{self.field}: {self.message}"
        if self.closest:
            text += f"; did you mean `{self.closest}`?"
        if self.allowed:
            text += f" (allowed: {', '.join(self.allowed)})"
        return text


def problems_error(problems: Iterable[Problem]) -> SpecError:
    """One `SpecError` for one or more problems; its `field` is the first one's."""
    found = tuple(problems)
    first = found[0]
    if len(found) == 1:
        return SpecError(
            f"{first.field}: {first.message}", field=first.field, allowed=first.allowed, closest=first.closest
        )
    lines = "".join(f"\n  - {problem}" for problem in found)
    return SpecError(f"the spec has {len(found)} problems:{lines}", field=first.field)


def check_labels(path: str, labels: Mapping[str, str]) -> Iterator[Problem]:
    yield from check_count(path, len(labels))
    for key in sorted(labels):
        if not LABEL_KEY.fullmatch(key):
            yield Problem(path, f"{shown(key)} is not a label (letters, digits, `. _ / -`, at most 128)")
        elif len(labels[key]) > 255 or not is_clean(labels[key]):
            yield Problem(f"{path}.{key}", "is longer than 255 letters or has control characters")


def check_name(path: str, name: str) -> Iterator[Problem]:
    if not name:
        yield Problem(path, f"is missing ({NAME_RULE})")
    elif not is_name(name):
        better = re.sub(r"[^a-z0-9]+", "-", name.lower())[:63].strip("-")
        yield Problem(
            path, f"{shown(name)} is not a valid name: {NAME_RULE}", closest=better if is_name(better) else ""
        )


def check_names(path: str, names: Iterable[str]) -> Iterator[Problem]:
    found = list(names)
    yield from check_count(path, len(found))
    for index, name in enumerate(found):
        yield from check_name(f"{path}[{index}]", name)
    yield from check_duplicates(path, found)


def check_duplicates(path: str, names: list[str]) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem(f"{path}[{index}]", f"{shown(name)} stands there twice")


def check_count(path: str, count: int) -> Iterator[Problem]:
    if count > MAX_ENTRIES:
        yield Problem(path, f"has {count} entries, at most {MAX_ENTRIES} are allowed")


def check_whole(path: str, value: int, low: int, high: int, note: str = "") -> Iterator[Problem]:
    if not low <= value <= high:
        yield Problem(path, f"{value} is out of range: {low} to {high}{note}")


def check_number(path: str, value: float, high: float, unit: str) -> Iterator[Problem]:
    if not (math.isfinite(value) and 0 <= value <= high):
        yield Problem(path, f"{value:g} is out of range: 0 to {high:g} {unit}")


def check_amount(path: str, value: float, high: float, unit: str) -> Iterator[Problem]:
    yield from check_number(path, value, high, unit)
    if 0 < value < MIN_RESOURCE:
        yield Problem(path, f"{value:g} is less than the smallest share, {MIN_RESOURCE:g}")


def is_clean(text: str) -> bool:
    return all(character.isprintable() for character in text)


def shown(text: str) -> str:
    """The text quoted, cut and without control characters, fit for one line of an error."""
    cut = text if len(text) <= 80 else text[:77] + "..."
    return "`" + "".join(character if character.isprintable() else "?" for character in cut) + "`"
