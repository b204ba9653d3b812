"""JSON schemas for editors, made from the tables that read the files.

`python -m serving.sdk.schema [mesh]` prints one.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from serving.sdk import connection, spec
from serving.sdk._table import Record

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def application_schema() -> dict[str, Any]:
    """The schema of an application's YAML file."""
    return _document(spec.TABLE, "Serving mesh application")


def mesh_schema() -> dict[str, Any]:
    """The schema of `mesh.yaml`."""
    return _document(connection.TABLE, "Serving mesh")


def _document(table: Record, title: str) -> dict[str, Any]:
    return {"$schema": _DIALECT, "title": title} | table.schema()


if __name__ == "__main__":
    chosen = mesh_schema() if sys.argv[1:] == ["mesh"] else application_schema()
    sys.stdout.write(json.dumps(chosen, indent=2) + "\n")
