"""The JSON schema of a call that must be made: `{"name": one of the functions, "arguments": by its parameters}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from serving.openai.tools import NamedToolChoice, Tool, ToolChoice

_LOCAL: Final = ("#/$defs/", "#/definitions/")


def must_call(tools: Sequence[Tool], choice: ToolChoice | None) -> list[Tool]:
    """The tools of which one must be called; none where the model may choose to call nothing."""
    if choice == "required":
        return list(tools)
    if isinstance(choice, NamedToolChoice):
        return [tool for tool in tools if tool.function.name == choice.function.name]
    return []


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """The schema of one call of one of them. Definitions that parameters refer to move to the root, under new names."""
    definitions: dict[str, Any] = {}
    calls = [_call(tool, definitions) for tool in tools]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": definitions} if definitions else schema


def _call(tool: Tool, definitions: dict[str, Any]) -> dict[str, Any]:
    name = tool.function.name
    parameters = dict(tool.function.parameters or {"type": "object", "properties": {}})
    prefix = f"{name}."
    for key in ("$defs", "definitions"):
        local = parameters.pop(key, None)
        if isinstance(local, Mapping):
            definitions.update({prefix + inner: _moved(schema, prefix) for inner, schema in local.items()})
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": _moved(parameters, prefix)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, prefix: str) -> Any:
    """With references to definitions under their new names. As deep as a body may be nested, which is bounded."""
    if isinstance(schema, list):
        return [_moved(item, prefix) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {key: _reference(item, prefix) if key == "$ref" else _moved(item, prefix) for key, item in schema.items()}


def _reference(target: Any, prefix: str) -> Any:
    if isinstance(target, str):
        for start in _LOCAL:
            if target.startswith(start):
                return "#/$defs/" + prefix + target.removeprefix(start)
    return target
