"""Where user code begins: `module:name`, imported."""

from __future__ import annotations

import importlib
from typing import Any

from serving.errors import FailedPrecondition
from serving.python_deployment.failure import described


def import_entry(entry: str) -> Any:
    """What `module:name` names; `name` may have dots. Runs the module's code. Raises `FailedPrecondition`."""
    module_name, _, name = entry.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except BaseException as error:  # a module may well call sys.exit
        raise FailedPrecondition(f"importing {module_name} failed: {described(error)}") from error
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise FailedPrecondition(f"the module {module_name} has no {name}")
    return found
