"""What a Python deployment is told in a spec: what users write, how it is read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._artifacts import ARTIFACT, Artifact, artifact_record
from serving.sdk._table import BYTES, AnyValue, Either, Field, ListOf, MapOf, PathText, Record, Text, Whole, json_text


@dataclass(frozen=True, slots=True)
class RuntimeEnv:
    """What must be there before the class is imported.

    `pip`: requirements as pip takes them, installed once per node. Variables are the deployment's `env`.
    """

    pip: tuple[str, ...] | list[str] = ()


RUNTIME_ENV: Final = Record(
    "a runtime environment",
    (Field("pip", ListOf(Text()), "Requirements as pip takes them, installed once per node.", default=()),),
)
PYTHON: Final = Record(
    "python",
    (
        Field("entry", Text(), "The class that answers requests: module:Class.", required=True),
        Field(
            "code",
            Either(ARTIFACT, PathText()),
            "The folder that holds the module, relative to this file, or an artifact; without it the module is "
            "installed where replicas run.",
        ),
        Field("args", MapOf(AnyValue()), "Arguments of the constructor, by name.", default={}),
        Field(
            "config",
            MapOf(AnyValue()),
            "What `reconfigure` is called with; a change of nothing else reaches running replicas in place.",
            default={},
        ),
        Field("model", Text(), "The name by which clients ask for it; without it the deployment's.", default=""),
        Field("max_requests", Whole(), "Requests that run or wait in a replica; 0 is 10000.", default=0),
        Field("max_message_bytes", BYTES, "Largest message: 64Mi; 0 is 2 GiB - 1.", default=0),
        Field("threads", Whole(), "Threads for methods that are not async; 0 is 8.", default=0),
        Field("runtime_env", RUNTIME_ENV, "What must be installed.", default=RUNTIME_ENV.defaults()),
    ),
)


def python_record(values: Mapping[str, Any], artifacts: Mapping[Path, Artifact]) -> pb.PythonDeployment:
    """The record of what `PYTHON` read."""
    record = pb.PythonDeployment(
        entry=values["entry"],
        args=json_text(values["args"]),
        config=json_text(values["config"]),
        model=values["model"],
        max_requests=values["max_requests"],
        max_message_bytes=values["max_message_bytes"],
        threads=values["threads"],
    )
    if values["code"]:
        record.code.CopyFrom(artifact_record(values["code"], artifacts))
    if values["runtime_env"]["pip"]:
        record.runtime_env.pip.extend(values["runtime_env"]["pip"])
    return record
