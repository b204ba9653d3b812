"""Guides (JSON schema, regular expression, grammar): what is wrong by their own languages, or would harm an engine."""

from __future__ import annotations

import json
import math
import re
import threading
from collections import OrderedDict
from typing import Any, Final

from serving.errors import InvalidArgument
from serving.llm.engine import Guide

ANY_OBJECT: Final = '{"type": "object"}'
_REMEMBERED: Final = 1024
_MOST_CHARACTERS: Final = 65_536
_MOST_BRACKETS: Final = 2_000
_MOST_DEPTH: Final = 64  # of a schema; xgrammar's time grows with its cube
_MOST_REPETITIONS: Final = 50_000
_REPETITION: Final = re.compile(r"\{(\d{1,9})(?:,(\d{0,9}))?\}")


class GuideRefused(InvalidArgument):
    """The engine cannot follow a guide, and why."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the engine cannot follow the guide: {why}")
        self.why = why


def check_guide(guide: Guide) -> None:
    """Raises `InvalidArgument` for a guide that is wrong by its own language, or as `check_size`."""
    check_size(guide)
    if guide.kind == "json_schema":
        _check_schema(guide.text)
    elif guide.kind in ("regex", "grammar") and not guide.text.strip():
        raise InvalidArgument(f"the {guide.kind} is empty")


def check_size(guide: Guide) -> None:
    """Raises `InvalidArgument` for a guide so large or so deep that it would stop the engine, or end its process."""
    if len(guide.text) > _MOST_CHARACTERS:
        raise InvalidArgument(
            f"the {guide.kind} has {len(guide.text)} characters; the engine takes {_MOST_CHARACTERS} at most"
        )
    if guide.kind == "json_schema":
        _check_parts(_read_schema(guide.text), depth=1)
    else:
        _check_expression(guide.text, guide.kind)


def _check_expression(text: str, kind: str) -> None:
    # xgrammar's readers call themselves for each bracket, and end the process when the stack is used up.
    brackets = sum(map(text.count, "([{"))
    if brackets > _MOST_BRACKETS:
        raise InvalidArgument(f"the {kind} has {brackets} brackets; the engine takes {_MOST_BRACKETS} at most")
    # Repetitions in repetitions are written out: a few letters can keep the engine busy for minutes.
    times = math.prod(max(1, int(last or first)) for first, last in _REPETITION.findall(text))
    if times > _MOST_REPETITIONS:
        raise InvalidArgument(f"the {kind} repeats too much: its counts multiply to more than {_MOST_REPETITIONS}")


def _read_schema(text: str) -> Any:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the JSON schema is not JSON: {error}") from error
    if not isinstance(schema, dict | bool):
        raise InvalidArgument(f"a JSON schema is an object, found {type(schema).__name__}")
    return schema


def _check_schema(text: str) -> None:
    import jsonschema

    schema = _read_schema(text)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "its root"
        raise InvalidArgument(f"the JSON schema is wrong at {place}: {error.message}"[:500]) from error


def _check_parts(part: Any, depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise InvalidArgument(f"the JSON schema is nested too deeply; the engine takes {_MOST_DEPTH} levels at most")
    if isinstance(part, dict):
        pattern = part.get("pattern")
        if isinstance(pattern, str):
            _check_expression(pattern, "regex")
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _check_parts(inner, depth + 1)


class KnownGuides:
    """Which guides the engine has followed already, and which it could not. Bounded; for any thread."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[Guide, str] = OrderedDict()  # → what was wrong with it; empty: nothing

    def is_proven(self, guide: Guide | None) -> bool:
        with self._lock:
            return guide is None or self._known.get(guide) == ""

    def refusal(self, guide: Guide) -> str:
        """Why the engine could not follow it; empty when that did not happen."""
        with self._lock:
            return self._known.get(guide, "")

    def remember(self, guide: Guide, wrong: str = "") -> None:
        with self._lock:
            self._known[guide] = wrong
            self._known.move_to_end(guide)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
