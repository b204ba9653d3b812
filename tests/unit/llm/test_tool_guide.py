"""The schema of a call that must be made."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from serving.llm.tool_guide import call_schema, must_call
from serving.openai.tools import NamedToolChoice, Tool


def tool(name: str, parameters: dict[str, Any] | None = None) -> Tool:
    return Tool.model_validate({"type": "function", "function": {"name": name, "parameters": parameters}})


CITY = {"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}, "required": ["city"],
        "$defs": {"City": {"enum": ["Oslo"]}}}  # fmt: skip
COUNT = {"type": "object", "properties": {"n": {"$ref": "#/definitions/City"}}, "required": ["n"],
         "definitions": {"City": {"type": "integer"}}}  # fmt: skip


def valid(schema: dict[str, Any], value: Any) -> bool:
    jsonschema.Draft202012Validator.check_schema(schema)
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def test_one_tool() -> None:
    schema = call_schema([tool("f", CITY)])
    assert valid(schema, {"name": "f", "arguments": {"city": "Oslo"}})
    assert not valid(schema, {"name": "f", "arguments": {"city": "Rome"}})
    assert not valid(schema, {"name": "g", "arguments": {"city": "Oslo"}})
    assert not valid(schema, {"name": "f"})
    assert list(schema["properties"]) == ["name", "arguments"]  # the order in which it is written


def test_definitions_of_two_tools_do_not_meet() -> None:
    schema = call_schema([tool("f", CITY), tool("g", COUNT)])
    assert valid(schema, {"name": "f", "arguments": {"city": "Oslo"}})
    assert valid(schema, {"name": "g", "arguments": {"n": 5}})
    assert not valid(schema, {"name": "g", "arguments": {"n": "Oslo"}})
    assert not valid(schema, {"name": "f", "arguments": {"city": 5}})


def test_a_tool_without_parameters() -> None:
    assert valid(call_schema([tool("f")]), {"name": "f", "arguments": {}})


def test_what_was_sent_stays_as_it_is() -> None:
    before = str(CITY)
    call_schema([tool("f", CITY)])
    assert str(CITY) == before


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, []),
        ("auto", []),
        ("none", []),
        ("required", ["f", "g"]),
        (NamedToolChoice.model_validate({"type": "function", "function": {"name": "g"}}), ["g"]),
    ],
)
def test_which_must_be_called(choice: Any, names: list[str]) -> None:
    assert [item.function.name for item in must_call([tool("f"), tool("g")], choice)] == names
