"""What makes the `serve` part of a spec valid, and what of the mesh's own it cannot be combined with. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from serving._proto import records_pb2 as pb
from serving.problems import Problem, check_count, check_duplicates, shown
from serving.validation.python import json_object, pip_problems

_DOTTED: Final = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
_IMPORT_PATH: Final = re.compile(rf"{_DOTTED}:{_DOTTED}")
_FUNCTION: Final = re.compile(rf"{_DOTTED}\.[A-Za-z_]\w*")


def serve_problems(path: str, deployment: pb.DeploymentSpec) -> Iterator[Problem]:
    """Everything but its artifact, which is like that of other kinds. `path` is the deployment's."""
    serve = deployment.serve
    if not serve.import_path:
        yield Problem(f"{path}.serve.import_path", "is missing: the application as `module:app`")
    elif not _IMPORT_PATH.fullmatch(serve.import_path):
        yield Problem(f"{path}.serve.import_path", f"{shown(serve.import_path)} is not `module:app`")
    if json_object(serve.args) is None:
        yield Problem(f"{path}.serve.args", "is not a JSON object")
    functions = list(serve.grpc_servicer_functions)
    yield from check_count(f"{path}.serve.grpc_servicer_functions", len(functions))
    for index, name in enumerate(functions):
        if not _FUNCTION.fullmatch(name):
            text = f"{shown(name)} is not `module.add_..._to_server`"
            yield Problem(f"{path}.serve.grpc_servicer_functions[{index}]", text)
    yield from check_duplicates(f"{path}.serve.grpc_servicer_functions", functions)
    yield from pip_problems(f"{path}.serve.runtime_env.pip", list(serve.runtime_env.pip))
    yield from _not_with_serve(path, deployment)


def _not_with_serve(path: str, deployment: pb.DeploymentSpec) -> Iterator[Problem]:
    if deployment.replicas.min > 1 or deployment.replicas.max > 1:
        yield Problem(
            f"{path}.replicas",
            "of `serve` is 1, the application: how many replicas its own deployments have is said in its code "
            "(`num_replicas`)",
        )
    if deployment.HasField("autoscaling"):
        yield Problem(
            f"{path}.autoscaling",
            "is not supported with `serve`: Ray Serve scales its deployments itself (`autoscaling_config` in its code)",
        )
    if deployment.scheduling.ByteSize():
        yield Problem(
            f"{path}.scheduling",
            "is not supported with `serve`: where its replicas run is said in its code (`ray_actor_options`)",
        )
    if deployment.rollout.HasField("canary"):
        yield Problem(
            f"{path}.rollout.canary",
            "is not supported with `serve`: its clients are not the mesh's, which share requests between revisions",
        )
