"""What makes the `python` part of a spec valid. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from serving._proto import records_pb2 as pb
from serving.problems import Problem, check_count, check_duplicates, check_whole, is_clean, shown

MAX_REQUESTS: Final = 1_000_000
MAX_MESSAGE_BYTES: Final = (1 << 31) - 1
MAX_THREADS: Final = 1024
MAX_REQUIREMENT: Final = 500

_ENTRY: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}")
_FILE_URI: Final = re.compile(r"(^|@)\s*file:", re.IGNORECASE)
_ARCHIVES: Final = (".whl", ".zip", ".tar.gz")
_ARGUMENT: Final = re.compile(r"[A-Za-z_]\w*")


def python_problems(path: str, python: pb.PythonDeployment) -> Iterator[Problem]:
    """Everything but its artifact, which is like that of other kinds."""
    if not python.entry:
        yield Problem(f"{path}.entry", "is missing: the class as `module:Class`")
    elif not _ENTRY.fullmatch(python.entry):
        yield Problem(f"{path}.entry", f"{shown(python.entry)} is not `module:Class`")
    for name in json_object(python.args) or ():
        if not _ARGUMENT.fullmatch(name):
            yield Problem(f"{path}.args", f"{shown(name)} is not a name of an argument")
    for field, text in (("args", python.args), ("config", python.config)):
        if json_object(text) is None:
            yield Problem(f"{path}.{field}", "is not a JSON object")
    if python.model and not MODEL_NAME.fullmatch(python.model):
        yield Problem(f"{path}.model", f"{shown(python.model)} is not a name of a model (letters, digits, `_ . + -`)")
    yield from check_whole(f"{path}.max_requests", python.max_requests, 0, MAX_REQUESTS, "; 0 is the default of 10000")
    largest = python.max_message_bytes
    yield from check_whole(f"{path}.max_message_bytes", largest, 0, MAX_MESSAGE_BYTES, "; 0 is the default")
    yield from check_whole(f"{path}.threads", python.threads, 0, MAX_THREADS, "; 0 is the default of 8")
    yield from pip_problems(f"{path}.runtime_env.pip", list(python.runtime_env.pip))


def function_problems(path: str, function: pb.ScalingFunction) -> Iterator[Problem]:
    """Of an autoscaling policy: everything but its artifact."""
    if not _ENTRY.fullmatch(function.entry):
        yield Problem(f"{path}.entry", f"{shown(function.entry)} is not `module:function`")
    if json_object(function.args) is None:
        yield Problem(f"{path}.args", "is not a JSON object")


def pip_problems(path: str, requirements: list[str]) -> Iterator[Problem]:
    """Of requirements that are installed on every node."""
    yield from check_count(path, len(requirements))
    for index, text in enumerate(requirements):
        if not text.strip() or len(text) > MAX_REQUIREMENT or not is_clean(text):
            yield Problem(f"{path}[{index}]", f"{shown(text)} is not a requirement such as `humanize==4.9`")
        elif text.lstrip().startswith("-"):
            yield Problem(f"{path}[{index}]", f"{shown(text)} is an option of pip; only requirements are taken")
        elif _FILE_URI.search(text) or _is_relative(text.strip()):
            yield Problem(
                f"{path}[{index}]", f"{shown(text)} is a file, which nodes may not have; give a name or a URL"
            )
    yield from check_duplicates(path, requirements)


def _is_relative(requirement: str) -> bool:
    """A path from wherever the replica happens to run."""
    if requirement.startswith("/") or "://" in requirement:
        return False
    return requirement.startswith((".", "~")) or "/" in requirement or requirement.endswith(_ARCHIVES)


def json_object(text: str) -> dict[str, object] | None:
    """The JSON object in `text`, an empty one for nothing; None when it is something else."""
    if not text:
        return {}
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
