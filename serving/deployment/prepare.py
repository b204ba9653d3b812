"""Prepares a node for a replica: fetches its artifact and composes the backend directory.

    python -m serving.deployment.prepare --uri ... --digest ... --size ... --cache-dir ...
    python -m serving.deployment.prepare --code-uri ... --code-digest ... --code-size ... --cache-dir ...

The last line of the standard output is a `PreparedNode` in canonical JSON. When it fails, the exit code is 1 and the
last line of the standard error says why. Nothing slow is imported unless the artifact has to be fetched from afar.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from pathlib import Path

from google.protobuf import json_format

from serving._proto.records_pb2 import PreparedNode
from serving.deployment import backend_directory, libraries, model_folders
from serving.deployment.artifact_cache import DEFAULT_MAX_BYTES, ArtifactCache
from serving.errors import FailedPrecondition, MeshError
from serving.process_id import ProcessId


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        node = _prepare(options)
    except MeshError as error:
        print(" ".join(error.message.split()), file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001  the edge of the process: the trace is for the log, the last line for people
        traceback.print_exc()
        print(f"internal error while preparing the node: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(json_format.MessageToJson(node, indent=None))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prepare", description="Prepares a node for a replica.")
    for prefix, what in (("", "models"), ("code-", "the code of a C++ deployment")):
        where = "a path or an fsspec URL; without it there are none" if not prefix else "likewise"
        parser.add_argument(f"--{prefix}uri", default="", help=f"where the archive of {what} is: {where}")
        parser.add_argument(f"--{prefix}digest", default="", help="sha256:<hex> of that archive")
        parser.add_argument(f"--{prefix}size", default=0, type=int, help="bytes of that archive")
    parser.add_argument("--cache-dir", required=True, type=Path, help="the node's cache, shared by its replicas")
    parser.add_argument("--max-cache-bytes", type=int, default=DEFAULT_MAX_BYTES)
    parser.add_argument(
        "--extra-backend-dir", action="append", default=[], type=Path, help="overrules the mesh's backends"
    )
    parser.add_argument("--triton", default="", help="Triton's library or installation; found by itself when not given")
    parser.add_argument("--lib-dir", type=Path, default=libraries.OWN_LIBRARIES, help="the mesh's own libraries")
    parser.add_argument(
        "--user-pid", type=int, default=0, help="the process that uses the artifact; the caller if not given"
    )
    parser.add_argument("--in-use", type=Path, help="the folder of models that the process serves at this moment")
    return parser


def _prepare(options: argparse.Namespace) -> PreparedNode:
    pid = options.user_pid or os.getppid()
    user = ProcessId.living(pid)
    if user is None:
        raise FailedPrecondition(f"process {pid}, for which the node should be prepared, is gone")
    triton = libraries.find_triton(options.triton)
    backends = backend_directory.compose(options.cache_dir, _backend_plan(triton, options))
    cache = ArtifactCache(options.cache_dir, max_bytes=options.max_cache_bytes)
    in_use = options.in_use
    if in_use is not None:  # before the new one is fetched: it may need the room
        cache.release(user, keep=(model_folders.digest_of(in_use),))
    code = ""
    if options.code_uri:
        unpacked = cache.get(options.code_uri, options.code_digest, options.code_size, user=user, now=time.time())
        code = str(unpacked.absolute())
    return PreparedNode(
        repository_path=str(_repository(cache, options, user)),
        code_path=code,
        backend_directory=str(backends.absolute()),
        triton_library=str(triton.library),
        cache_directory=str(triton.caches.absolute()) if triton.caches is not None else "",
    )


def _repository(cache: ArtifactCache, options: argparse.Namespace, user: ProcessId) -> Path:
    if not options.uri:
        return model_folders.compose_empty(options.cache_dir, user=user)
    artifact = cache.get(options.uri, options.digest, options.size, user=user, now=time.time())
    digest = options.digest.rpartition(":")[2]
    return model_folders.compose(options.cache_dir, artifact, digest, user=user, in_use=options.in_use)


def _backend_plan(triton: libraries.Triton, options: argparse.Namespace) -> backend_directory.Plan:
    # A backend that is not there is no fault unless a model asks for it; Triton then names it.
    openvino_library = openvino_package = python_backend = None
    try:
        openvino_library = libraries.find_openvino_backend(options.lib_dir)
        openvino_package = libraries.find_openvino()
    except libraries.MissingPiece as missing:
        print(f"models on OpenVINO cannot be served: {missing}", file=sys.stderr)
    try:
        python_backend = libraries.find_python_backend(triton)
    except libraries.MissingPiece as missing:
        print(f"models in Python cannot be served: {missing}", file=sys.stderr)
    return backend_directory.plan(
        triton,
        openvino_library=openvino_library,
        openvino_package=openvino_package,
        python_backend=python_backend,
        deployment_library=libraries.find_deployment_backend(options.lib_dir),
        extra_directories=options.extra_backend_dir,
    )


if __name__ == "__main__":
    sys.exit(main())
