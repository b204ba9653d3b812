"""What a deployment of Ray Serve is told in a spec: what users write, how it is read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._artifacts import ARTIFACT, Artifact, artifact_record
from serving.sdk._python_options import RUNTIME_ENV
from serving.sdk._table import AnyValue, Either, Field, ListOf, MapOf, PathText, Record, Text, json_text

SERVE: Final = Record(
    "serve",
    (
        Field(
            "import_path", Text(), "module:app, an application or a function that builds one from args.", required=True
        ),
        Field(
            "code",
            Either(ARTIFACT, PathText()),
            "The folder that holds the module, relative to this file, or an artifact; without it the module is "
            "installed in the cluster.",
        ),
        Field("args", MapOf(AnyValue()), "For the function that builds the application.", default={}),
        Field("runtime_env", RUNTIME_ENV, "What must be installed.", default=RUNTIME_ENV.defaults()),
        Field(
            "grpc_servicer_functions",
            ListOf(Text()),
            "module.add_..._to_server of its gRPC services, installed in the cluster; empty is no gRPC entry point.",
            default=(),
        ),
    ),
)


def serve_record(values: Mapping[str, Any], artifacts: Mapping[Path, Artifact]) -> pb.ServeDeployment:
    """The record of what `SERVE` read."""
    args = values["args"]
    record = pb.ServeDeployment(
        import_path=values["import_path"],
        args=json_text(args),
        grpc_servicer_functions=values["grpc_servicer_functions"],
    )
    if values["code"]:
        record.code.CopyFrom(artifact_record(values["code"], artifacts))
    if values["runtime_env"]["pip"]:
        record.runtime_env.pip.extend(values["runtime_env"]["pip"])
    return record
