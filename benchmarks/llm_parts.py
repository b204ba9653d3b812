"""Replicas of language models and gateways as processes of a benchmark."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.servers import ROOT
from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.errors import FailedPrecondition
from serving.store.records import encode

CHAT_MODEL: Final = ROOT / "examples" / "chat" / "model"


def replica_file(
    folder: Path, endpoints: list[str], *, name: str, application: str, llm: pb.LlmDeployment, options: dict[str, Any]
) -> Path:
    """The configuration of a replica of the tiny chat model, for `python -m serving.llm`; `llm` says what else."""
    weights = pack(CHAT_MODEL, (folder / "artifacts").as_uri())
    artifact = pb.Artifact(uri=weights.uri, digest=weights.digest, size_bytes=weights.size_bytes)
    config = pb.ReplicaConfig(
        id=name,
        namespace="default",
        application=application,
        deployment="chat",
        cluster="bench",
        generation=1,
        revision=1,
        cache_dir=str(folder / "cache"),
        etcd=pb.EtcdConnection(endpoints=endpoints),
    )
    config.llm.CopyFrom(llm)
    config.llm.weights.CopyFrom(artifact)
    config.llm.options = json.dumps({"threads": 1, **options})
    file = folder / f"{name}.json"
    file.write_text(encode(config).decode())
    return file


def gateway_file(folder: Path, endpoints: list[str]) -> Path:
    """For `python -m serving.gateway --config`."""
    file = folder / "gateway.json"
    file.write_text(json.dumps({"etcd": {"endpoints": endpoints}, "listen": "127.0.0.1:0"}))
    return file


@contextlib.contextmanager
def program(module: str, arguments: list[str], log_file: Path) -> Iterator[subprocess.Popen[str]]:
    """`python -m module`, ended when it is left."""
    with log_file.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_line(process: subprocess.Popen[str], wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The first line of JSON that fits. Raises `FailedPrecondition` when the process fails or ends before."""
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found.get("state") == "failed":
            break
        if wanted(found):
            return found
    raise FailedPrecondition(f"{process.args!r} did not start; its log is below build/")


def is_registered(line: dict[str, Any]) -> bool:
    """A line of a replica that is in discovery."""
    return bool(line.get("state") == "ready" and line.get("registered"))
