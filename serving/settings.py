"""Configuration files of processes: JSON or YAML read into a frozen dataclass, every mistake named with its place."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from serving.errors import InvalidArgument
from serving.spelling import closest_match

C = TypeVar("C")


def read_settings(path: Path) -> Any:
    """The plain values of a JSON or YAML file. Raises `InvalidArgument` that names it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidArgument(f"cannot read the configuration {path}: {reason}") from error
    return _parse(text, path)


def _parse(text: str, path: Path) -> Any:
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise InvalidArgument(f"{path} is not JSON: {error}") from error
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidArgument(f"{path} is not YAML: {error}") from error


def build_settings(kind: type[C], values: Any, where: str) -> C:
    """A `kind` from plain values; its fields may be scalars, tuples of texts, mappings, and dataclasses again.

    Raises `InvalidArgument` for an unknown, missing or wrong setting, naming it.
    """
    if not isinstance(values, Mapping):
        raise InvalidArgument(f"{where}: a table of settings is wanted, found {type(values).__name__}")
    hints = typing.get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            closest = closest_match(str(name), known)
            hint = f"; did you mean `{closest}`?" if closest else ""
            raise InvalidArgument(f"{where}: there is no setting `{name}`{hint} (allowed: {', '.join(sorted(known))})")
    missing = [
        name
        for name, item in known.items()
        if name not in values and item.default is MISSING and item.default_factory is MISSING
    ]
    if missing:
        raise InvalidArgument(f"{where}: the setting `{missing[0]}` is missing")
    return kind(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        return None if value is None else _value(inner[0], value, where)
    if is_dataclass(hint) and isinstance(hint, type):
        return build_settings(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise InvalidArgument(f"{where}: a list of texts is wanted, found {value!r}")
        return tuple(value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise InvalidArgument(f"{where}: a table is wanted, found {value!r}")
        inner_type = typing.get_args(hint)[1]
        return {str(name): _value(inner_type, item, f"{where}.{name}") for name, item in value.items()}
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
        raise InvalidArgument(f"{where}: {words.get(hint, 'another value')} is wanted, found {value!r}")
    if isinstance(value, (int, float)) and value < 0:
        raise InvalidArgument(f"{where}: {value!r} is negative")
    return value
