"""The JSON schemas agree with what the loaders take."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jsonschema
import pytest
import yaml

from serving.errors import SpecError
from serving.sdk import parse_spec
from serving.sdk.schema import application_schema, mesh_schema


def validator(schema: dict[str, Any]) -> Any:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_a_full_file_fits(full: str) -> None:
    validator(application_schema()).validate(yaml.safe_load(full))
    parse_spec(full)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("event_loops: 1", "event_loops: x"),
        ("event_loops", "eventloops"),
        ("    env: {A: b}", "    env: [A]"),
        ("memory: 512Mi", "memory: 512XX"),
        ("start_timeout: 2m", "start_timeout: soon"),
        ("repository: ./models", "models_too: x"),
        ("name: digits\nnamespace", "namespace"),
    ],
)
def test_what_the_loader_refuses_the_schema_refuses(full: str, old: str, new: str) -> None:
    text = full.replace(old, new, 1)
    assert text != full
    with pytest.raises(SpecError):
        parse_spec(text)
    assert not validator(application_schema()).is_valid(yaml.safe_load(text))


def test_the_mesh_schema_knows_the_documented_fields() -> None:
    schema = mesh_schema()
    validator(schema)
    assert set(schema["required"]) == {"etcd", "artifacts", "clusters"}
    assert all(field["description"] for field in schema["properties"].values())


def test_it_can_be_printed() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "serving.sdk.schema"], check=True, capture_output=True, text=True
    ).stdout
    assert yaml.safe_load(printed) == application_schema()
