"""An OpenAPI document as a page for people: one HTML text without scripts, which loads nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any, Final

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; border-top: 1px solid #ddd; padding-top: 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; } b.m { text-transform: uppercase; color: #0b5; }
table { border-collapse: collapse; width: 100%; } td { vertical-align: top; padding: .2rem .6rem; }
tr { border-bottom: 1px solid #eee; } details { margin: .4rem 0; } summary { cursor: pointer; } small { color: #666; }
"""
_MOST_TYPES: Final = 8  # alternatives that are named of a field
_REF: Final = "#/components/schemas/"


def docs_page(document: Mapping[str, Any]) -> str:
    """The page of a document that `serving.openai.openapi.document` made."""
    info = document["info"]
    schemas = document["components"]["schemas"]
    title = escape(info["title"])
    operations = [
        _operation(path, method, described, schemas)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
    ]
    kinds = [
        f"<h2 id='{escape(name)}'>{escape(name)}</h2>{_schema(schema)}" for name, schema in sorted(schemas.items())
    ]
    head = f"<head><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style></head>"
    return (
        f"<!doctype html><html lang='en'>{head}"
        f"<body><h1>{title} <small>{escape(info['version'])}</small></h1>"
        "<p>The document for programs: <a href='openapi.json'>openapi.json</a></p>"
        f"{''.join(operations)}<h1>Types</h1>{''.join(kinds)}</body></html>"
    )


def _operation(path: str, method: str, described: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    parts = [f"<h2><b class='m'>{method}</b> <code>{escape(path)}</code></h2><p>{escape(described['summary'])}</p>"]
    if described["parameters"]:
        rows = [
            (f"{one['name']} ({one['in']})", one["schema"]["type"], one.get("description", ""))
            for one in described["parameters"]
        ]
        parts.append(f"<details><summary>Parameters</summary>{_table(rows)}</details>")
    body = described.get("requestBody")
    if body is not None:
        ((kind, content),) = body["content"].items()
        schema = content["schema"]
        said = _type(schema) if kind == "application/json" else f"{escape(kind)}: {_type(schema)}"
        parts.append(f"<details open><summary>Request: {said}</summary>{_fields(schema, schemas)}</details>")
    answers = [
        (status, _contents(answer["content"]), answer["description"])
        for status, answer in described["responses"].items()
    ]
    parts.append(f"<details><summary>Answers</summary>{_table(answers, raw=1)}</details>")
    return "".join(parts)


def _contents(content: Mapping[str, Any]) -> str:
    return "<br>".join(f"{escape(kind)}: {_type(_content(one))}" for kind, one in content.items())


def _content(one: Mapping[str, Any]) -> Any:
    """What an answer holds, or each event of a stream."""
    return one["schema"] if "schema" in one else one["itemSchema"]["properties"]["data"]["contentSchema"]


def _fields(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    name = schema.get("$ref", "").removeprefix(_REF)
    return _schema(schemas.get(name, schema))


def _schema(schema: Mapping[str, Any]) -> str:
    text = f"<p>{escape(schema['description'])}</p>" if schema.get("description") else ""
    if "properties" not in schema:
        return f"{text}<pre>{escape(json.dumps(schema, indent=1))}</pre>"
    required = set(schema.get("required", ()))
    rows = [
        (name + (" *" if name in required else ""), _type(field), _bounds(field))
        for name, field in schema["properties"].items()
    ]
    return text + _table(rows, raw=1)


def _table(rows: list[tuple[str, str, str]], raw: int = -1) -> str:
    """`raw` is the column that is HTML already."""
    cells = ("".join(f"<td>{cell if at == raw else escape(cell)}</td>" for at, cell in enumerate(row)) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _type(schema: Mapping[str, Any]) -> str:
    """As HTML: types of the document are links."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(_REF))
        return f"<a href='#{name}'>{name}</a>"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            shown = list(dict.fromkeys(_type(one) for one in schema[key]))
            return " or ".join(shown[:_MOST_TYPES]) + (" or ..." if len(shown) > _MOST_TYPES else "")
    if "const" in schema or "enum" in schema:
        return escape(", ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("type", "any")))


def _bounds(schema: Mapping[str, Any]) -> str:
    """Limits that are said of a field itself, or of one of its alternatives."""
    names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "maxItems")
    places = [schema, *schema.get("anyOf", ())]
    return ", ".join(f"{name} {place[name]}" for place in places for name in names if name in place)
