"""One table of fields for what people write: it reads values, names what is wrong, and makes the JSON schema.

A `Record` is a tuple of `Field`s; each field has a kind (`Text`, `Whole`, `ListOf`, ...). The same record reads what a
YAML file held and what an SDK object holds, so both mean the same.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from serving.problems import Problem
from serving.sdk._quantities import parse_bytes, parse_cores, parse_seconds
from serving.spelling import closest_match

_INT64: Final = 1 << 63


@dataclass(slots=True)
class Reading:
    """One pass over a value: collects problems; `raw` has scalars as they were written, by field path."""

    raw: Mapping[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def root(self) -> Place:
        return Place("", self)


@dataclass(frozen=True, slots=True)
class Place:
    """A field path inside a `Reading`."""

    path: str
    reading: Reading

    def child(self, name: str) -> Place:
        return Place(f"{self.path}.{name}" if self.path else name, self.reading)

    def item(self, index: int) -> Place:
        return Place(f"{self.path}[{index}]", self.reading)

    def fail(self, message: str, *, allowed: tuple[str, ...] = (), closest: str = "") -> None:
        self.reading.problems.append(Problem(self.path or "the document", message, allowed, closest))

    @property
    def raw(self) -> str | None:
        return self.reading.raw.get(self.path)


class Kind(Protocol):
    """Reads one value at a place; what is wrong goes to the place, and the answer is then an empty one of its type."""

    def read(self, value: object, at: Place) -> Any: ...

    def schema(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Text:
    """A text; numbers are refused, so that `name: 1e3` and `name: no` cannot become something else unseen."""

    allowed: tuple[str, ...] = ()

    def read(self, value: object, at: Place) -> str:
        if not isinstance(value, str):
            hint = f'; write it in quotes: "{at.raw}"' if at.raw and isinstance(value, int | float) else ""
            at.fail(f"expects a text, got {describe(value)}{hint}")
            return ""
        if not _is_unicode(value):
            at.fail("holds half of a surrogate pair, which is no text")
            return ""
        if self.allowed and value not in self.allowed:
            at.fail(f"`{value}` is not known", allowed=self.allowed, closest=closest_match(value, self.allowed))
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string"} | ({"enum": list(self.allowed)} if self.allowed else {})


@dataclass(frozen=True, slots=True)
class PathText:
    """A text or an `os.PathLike`, as text."""

    def read(self, value: object, at: Place) -> str:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        return Text().read(value, at)

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class Word:
    """A text for maps of settings: a number or truth value stands for the text that was written (`THREADS: 1`)."""

    def read(self, value: object, at: Place) -> str:
        if isinstance(value, str):
            return Text().read(value, at)
        if isinstance(value, bool | int | float):
            if at.raw is not None:
                return at.raw
            return str(value).lower() if isinstance(value, bool) else str(value)
        at.fail(f"expects a text, got {describe(value)}" + ('; "" is the empty text' if value is None else ""))
        return ""

    def schema(self) -> dict[str, Any]:
        return {"type": ["string", "number", "boolean"]}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number that its field of the record can hold; which values are right is said by `serving.validation`."""

    bits: int = 32

    def read(self, value: object, at: Place) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            at.fail(f"expects a whole number, got {describe(value)}")
            return 0
        limit = 1 << (self.bits - 1)
        if not -limit <= value < limit:
            at.fail(f"{describe(value)} is far out of range")
            return 0
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "integer"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with an optional unit, turned into one unit by `parse` (which raises `ValueError`)."""

    parse: Callable[[object], float]
    pattern: str

    def read(self, value: object, at: Place) -> Any:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            at.fail(f"expects a number or a quantity, got {describe(value)}")
            return 0
        try:
            amount = self.parse(value)
        except ValueError as error:
            at.fail(str(error), closest=_better_unit(value) if self.parse is parse_bytes else "")
            return 0
        if abs(amount) >= _INT64:
            at.fail(f"{amount:.6g} is far out of range")
            return 0
        return amount

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": self.pattern}]}


BYTES: Final = Quantity(parse_bytes, r"^[0-9]+(\.[0-9]+)?\s*([kKMGTP]i?)?B?$")
CORES: Final = Quantity(parse_cores, r"^[0-9]+(\.[0-9]+)?\s*m?$")
SECONDS: Final = Quantity(parse_seconds, r"^([0-9]+(\.[0-9]+)?\s*(ms|s|m|h)?\s*)+$")


@dataclass(frozen=True, slots=True)
class Number:
    """A number, whole or not."""

    def read(self, value: object, at: Place) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            at.fail(f"expects a number, got {describe(value)}")
            return 0.0
        try:
            return float(value)
        except OverflowError:
            at.fail("is far out of range")
            return 0.0

    def schema(self) -> dict[str, Any]:
        return {"type": "number"}


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def read(self, value: object, at: Place) -> bool:
        if not isinstance(value, bool):
            at.fail(f"expects true or false, got {describe(value)}")
            return False
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list (or tuple) of one kind."""

    kind: Kind

    def read(self, value: object, at: Place) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            hint = f"; write it as [{value}]" if isinstance(value, str) and len(value) <= 60 else ""
            at.fail(f"expects a list, got {describe(value)}{hint}")
            return ()
        return tuple(self.kind.read(item, at.item(index)) for index, item in enumerate(value))

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.kind.schema()}


@dataclass(frozen=True, slots=True)
class MapOf:
    """A mapping from texts to one kind."""

    kind: Kind

    def read(self, value: object, at: Place) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            at.fail(f"expects a mapping, got {describe(value)}")
            return {}
        found: dict[str, Any] = {}
        for key, item in value.items():
            name = Text().read(key, at)
            found[name] = self.kind.read(item, at.child(name))
        return found

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.kind.schema()}


@dataclass(frozen=True, slots=True)
class AnyValue:
    """What JSON can hold: texts, numbers, truth values, nothing, and lists and mappings of these."""

    def read(self, value: object, at: Place) -> Any:
        if isinstance(value, Mapping):
            return MapOf(self).read(value, at)
        if isinstance(value, list | tuple):
            return list(ListOf(self).read(value, at))
        if isinstance(value, str):
            return Text().read(value, at)
        if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            return value
        at.fail(f"expects a value that JSON can hold, got {describe(value)}")
        return None

    def schema(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, slots=True)
class Either:
    """One kind for mappings, another one for everything else (`replicas: 2` or `replicas: {min: 2, max: 2}`)."""

    mapping: Kind
    other: Kind

    def read(self, value: object, at: Place) -> Any:
        return (self.mapping if isinstance(value, Mapping) else self.other).read(value, at)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.other.schema(), self.mapping.schema()]}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a `Record`. Without a value it reads as `default`, which is of the kind's own type."""

    name: str
    kind: Kind
    doc: str
    default: Any = None
    required: bool = False

    def absent(self) -> Any:
        """What is read where nothing stands; of a required field the kind's empty value."""
        return self.kind.read(None, Reading().root()) if self.required else self.default


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping with known fields. Reads as a dict with every field; an absent one has its default."""

    title: str
    fields: tuple[Field, ...]
    one_of: tuple[str, ...] = ()  # exactly one of these fields must be given

    def read(self, value: object, at: Place) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            at.fail(f"expects a mapping with the fields of {self.title}, got {describe(value)}", allowed=self.names)
            return self.defaults()
        meant = {self._unknown(str(key), at) for key in value if key not in self.names}
        given = [name for name in self.one_of if value.get(name) is not None]
        if self.one_of and len(given) != 1 and not meant.intersection(self.one_of):
            both = " and ".join(f"`{name}`" for name in given)
            at.fail(f"says {both}, but is one of them" if given else "does not say what it is", allowed=self.one_of)
        return {entry.name: self._field(entry, value, at, entry.name in meant) for entry in self.fields}

    def _unknown(self, key: str, at: Place) -> str:
        """Says so, and answers the field that was probably meant."""
        closest = closest_match(key, self.names)
        at.child(key[:60]).fail(f"{self.title} has no such field", allowed=self.names, closest=closest)
        return closest

    @staticmethod
    def _field(entry: Field, value: Mapping[Any, Any], at: Place, misspelt: bool) -> Any:
        given = value.get(entry.name)
        if given is not None:
            return entry.kind.read(given, at.child(entry.name))
        if entry.required and not misspelt:
            at.child(entry.name).fail("is missing" if entry.name not in value else "has no value")
        return entry.absent()

    def defaults(self) -> dict[str, Any]:
        """What an empty mapping reads as."""
        return {entry.name: entry.absent() for entry in self.fields}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.fields)

    def schema(self) -> dict[str, Any]:
        properties = {entry.name: entry.kind.schema() | {"description": entry.doc} for entry in self.fields}
        required = [entry.name for entry in self.fields if entry.required]
        made: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
        if self.one_of:
            made["oneOf"] = [{"required": [name]} for name in self.one_of]
        return made | ({"required": required} if required else {})


def json_text(values: Mapping[str, Any]) -> str:
    """As text for a record, because a protobuf Struct would turn whole numbers into others; "" for none."""
    return json.dumps(values, sort_keys=True, ensure_ascii=False, allow_nan=False) if values else ""


def describe(value: object) -> str:
    """A value's type in the words of YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return "a huge number" if abs(value) > 1e300 else f"the number {value:.15g}"
    if isinstance(value, str):
        return f"the text `{value if len(value) <= 60 else value[:57] + '...'}`"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return f"a {type(value).__name__}"


def _better_unit(value: object) -> str:
    """`512mi`, `512MI` → `512Mi`: letters of units in the wrong case."""
    text = str(value).strip()
    number = text.rstrip("kKmMgGtTpPiIbB ")
    unit = text[len(number) :].strip().lower().removesuffix("b")
    better = number + {"m": "Mi", "mi": "Mi", "g": "G", "gi": "Gi", "ki": "Ki", "t": "T", "ti": "Ti"}.get(unit, "")
    return better if better != number and better != text else ""


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
