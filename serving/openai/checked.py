"""From a JSON object to a request; of what is wrong, the deepest place is named, in OpenAI's way to write paths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from serving.openai.errors import InvalidRequest

_SHOWN: Final = 60  # characters of a wrong value


class RequestModel(BaseModel):
    """Base of what clients send. Texts are no numbers; unknown fields are ignored, as clients send many extensions.

    Lists without a bound are annotated `fail_fast`, mappings `at_most`: all mistakes of a long list are gathered
    otherwise, which takes minutes and gigabytes for a body of some megabytes.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


R = TypeVar("R", bound=RequestModel)


def at_most(entries: int) -> BeforeValidator:
    """Of a mapping: how many there may be, looked at before any of them."""

    def check(value: Any) -> Any:
        if isinstance(value, Mapping) and len(value) > entries:
            raise ValueError(f"should have at most {entries} entries, not {len(value)}")
        return value

    return BeforeValidator(check)


def checked(kind: type[R], body: Mapping[str, Any], undone: Mapping[str, Sequence[Any]]) -> R:
    """A `kind` of the body's fields. Raises `InvalidRequest` that names the field.

    `undone` are documented fields that nothing here follows, each with the values that ask for nothing.
    """
    for name, inert in undone.items():
        if name in body and body[name] is not None and body[name] not in inert:
            allowed = f" (only {' or '.join(json.dumps(value) for value in inert)} can be given)" if inert else ""
            raise InvalidRequest(
                f"`{name}` is not supported here{allowed}", param=name, error_code="unsupported_parameter"
            )
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _refusal(body, error.errors(include_url=False)) from error


def ignored_fields(request: RequestModel, body: Mapping[str, Any], undone: Mapping[str, Any]) -> list[str]:
    """The names in the body that mean nothing here."""
    return [name for name in body if name not in type(request).model_fields and name not in undone]


def _refusal(body: Mapping[str, Any], errors: list[ErrorDetails]) -> InvalidRequest:
    placed = [(_path(body, item), item) for item in errors]
    deepest = max(len(path) for path, _ in placed)
    path = next(path for path, _ in placed if len(path) == deepest)
    here = [item for other, item in placed if other == path]
    # Of the alternatives of a union, those of which at least the type is right are what was meant.
    meant = [item for item in here if not item["type"].endswith("_type")] or here
    first = meant[0]
    where = _written(path)
    text = " or ".join(dict.fromkeys(_said(item) for item in meant))
    if first["type"] == "missing":
        return InvalidRequest(f"`{where}` is missing", param=where, error_code="missing_required_parameter")
    shown = _shown(first["input"])
    kind = "invalid_type" if first["type"].endswith("_type") else "invalid_value"
    return InvalidRequest(f"`{where}`: {text}; found {shown}", param=where or None, error_code=kind)


def _shown(value: Any) -> str:
    """Its beginning."""
    if isinstance(value, list | Mapping) and len(value) > _SHOWN:
        return f"{'an array' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = json.dumps(value[: _SHOWN + 1] if isinstance(value, str) else value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _said(item: ErrorDetails) -> str:
    text = item["msg"].removeprefix("Value error, ").removeprefix("Input ").replace(" after validation", "")
    return text[:1].lower() + text[1:]


def _path(body: Any, item: ErrorDetails) -> tuple[str | int, ...]:
    """Where it is, without the names that pydantic gives to the alternatives of a union."""
    path: list[str | int] = []
    here: Any = body
    last = len(item["loc"]) - 1
    for index, step in enumerate(item["loc"]):
        item_of_list = isinstance(step, int) and isinstance(here, list) and step < len(here)
        if item_of_list or (isinstance(here, Mapping) and step in here):
            here = here[step]
        elif index < last or item["type"] != "missing":
            continue
        path.append(step)
    return tuple(path)


def _written(path: Sequence[str | int]) -> str:
    """`messages[0].content`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
