"""What a C++ deployment is told in a spec: how it is read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._artifacts import ARTIFACT, Artifact, artifact_record
from serving.sdk._ingress_options import BUSY_POLL
from serving.sdk._table import BYTES, AnyValue, Either, Field, MapOf, PathText, Record, Text, Whole, json_text

CPP: Final = Record(
    "cpp",
    (
        Field("library", Text(), "The shared library: a path in code, or an absolute one.", required=True),
        Field(
            "code",
            Either(ARTIFACT, PathText()),
            "The folder that holds the library, relative to this file, or an artifact; without it the library is "
            "installed where replicas run.",
        ),
        Field("args", MapOf(AnyValue()), "Arguments of the constructor, by name.", default={}),
        Field(
            "config",
            MapOf(AnyValue()),
            "What Reconfigure is called with; a change of nothing else reaches running replicas in place.",
            default={},
        ),
        Field(
            "repository",
            Either(ARTIFACT, PathText()),
            "A folder of models in Triton's layout, or an artifact, that the code may call in its own process.",
        ),
        Field("model", Text(), "The name by which clients ask for it; without it the deployment's.", default=""),
        Field("max_requests", Whole(), "Requests that run or wait in a replica; 0 is 10000.", default=0),
        Field("max_message_bytes", BYTES, "Largest message: 64Mi; 0 is 2 GiB - 1.", default=0),
        Field("threads", Whole(), "Threads that run requests; 0 is 8.", default=0),
        BUSY_POLL,
    ),
)


def cpp_record(values: Mapping[str, Any], artifacts: Mapping[Path, Artifact]) -> pb.CppDeployment:
    """The record of what `CPP` read."""
    record = pb.CppDeployment(
        library=values["library"],
        args=json_text(values["args"]),
        config=json_text(values["config"]),
        model=values["model"],
        max_requests=values["max_requests"],
        max_message_bytes=values["max_message_bytes"],
        threads=values["threads"],
        busy_poll_us=values["busy_poll_us"],
    )
    for name in ("code", "repository"):
        if values[name]:
            getattr(record, name).CopyFrom(artifact_record(values[name], artifacts))
    return record
