"""What the tests of replicas share: a model repository, a node prepared for it, configurations, processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton_grpc
from google.protobuf import json_format

from serving._proto import records_pb2
from serving.config import EtcdConfig
from serving.deployment import libraries
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.types import KeyValue
from tests.support.log_records import log_records
from tests.support.waiting import eventually

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[3]
START_TIMEOUT_S = 120.0
APP = keys.AppKey("default", "shop")

MODEL_CONFIG = """
    name: "{name}"
    backend: "identity"
    max_batch_size: 0
    input [ {{ name: "IN", data_type: {kind}, dims: [ -1 ] }} ]
    output [ {{ name: "OUT", data_type: {kind}, dims: [ -1 ] }} ]
    instance_group [ {{ kind: KIND_CPU, count: 4 }} ]
"""


def build_directory() -> Path:
    """The C++ build under test; MESH_BUILD_DIR names another one."""
    return Path(os.environ.get("MESH_BUILD_DIR", ROOT / "build" / "cmake")).resolve()


def replica_binary() -> Path:
    return build_directory() / "cpp_ext" / "deployment" / "mesh_replica"


def write_model(repository: Path, name: str, *, delay_ms: int = 0, kind: str = "TYPE_FP32", extra: str = "") -> None:
    """Adds an identity model to a repository; each of its executions takes `delay_ms`."""
    (repository / name / "1").mkdir(parents=True)
    text = textwrap.dedent(MODEL_CONFIG.format(name=name, kind=kind)) + extra
    if delay_ms:
        text += f'parameters {{ key: "execute_delay_ms" value {{ string_value: "{delay_ms}" }} }}\n'
    (repository / name / "config.pbtxt").write_text(text)


def prepare_command(directory: Path, repository: Path) -> list[str]:
    """A prepare command whose work is done already: it prints the PreparedNode of the test's repository."""
    triton = libraries.find_triton()
    node = records_pb2.PreparedNode(
        repository_path=str(repository),
        backend_directory=str(build_directory() / "test_backends"),
        triton_library=str(triton.library),
        cache_directory=str(triton.caches),
    )
    answer = directory / "prepared.json"
    answer.write_text("a line of progress\n" + json_format.MessageToJson(node, indent=None) + "\n")
    return ["cat", str(answer)]


def replica_config(
    command: list[str],
    etcd: EtcdConfig | None = None,
    *,
    replica_id: str = "model-r1-0",
    ttl_s: int = 60,
    **fields: Any,
) -> records_pb2.ReplicaConfig:
    """A configuration with the names that the tests look for."""
    config = records_pb2.ReplicaConfig(
        id=replica_id,
        namespace=APP.namespace,
        application=APP.name,
        deployment="model",
        cluster="east",
        generation=1,
        revision=1,
        lease_ttl_s=ttl_s,
        prepare_command=command,
        **fields,
    )
    if etcd is not None:
        config.etcd.endpoints.extend(etcd.endpoints)
    return config


def endpoint_key(replica_id: str = "model-r1-0") -> str:
    return keys.endpoint(APP, "direct", "model", replica_id)


def infer(address: str, model: str = "echo", *, values: list[float] | None = None) -> npt.NDArray[np.float32]:
    """One request through the reference client; returns the output."""
    data = np.array(values if values is not None else [1, 2, 3], dtype=np.float32)
    tensor = triton_grpc.InferInput("IN", list(data.shape), "FP32")
    tensor.set_data_from_numpy(data)
    client = triton_grpc.InferenceServerClient(address)
    try:
        answer = client.infer(model, [tensor], client_timeout=60)
    finally:
        client.close()
    output = answer.as_numpy("OUT")
    if output is None:
        raise AssertionError("the answer has no output OUT")
    return np.asarray(output, dtype=np.float32)


def parse_report(text: str) -> records_pb2.ReplicaReport:
    return json_format.Parse(text, records_pb2.ReplicaReport())


class Store:
    """Blocking looks at etcd through the mesh's own client."""

    def __init__(self, config: EtcdConfig) -> None:
        self._config = config

    def _run(self, work: Callable[[EtcdClient], Awaitable[T]]) -> T:
        async def once() -> T:
            client = EtcdClient(self._config)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(once())

    def get(self, key: str) -> KeyValue | None:
        return self._run(lambda client: client.get(key))

    def put(self, key: str, value: bytes) -> None:
        self._run(lambda client: client.put(key, value))

    def put_many(self, entries: dict[str, str]) -> None:
        async def work(client: EtcdClient) -> None:
            await asyncio.gather(*(client.put(key, value.encode()) for key, value in entries.items()))

        self._run(work)

    def delete(self, key: str) -> None:
        self._run(lambda client: client.delete(key))

    def revoke(self, lease: int) -> None:
        self._run(lambda client: client.revoke(lease))

    def endpoint(self, key: str) -> records_pb2.Endpoint | None:
        """The endpoint at `key`, None when it is not there."""
        found = self.get(key)
        return None if found is None else json_format.Parse(found.value, records_pb2.Endpoint())


class ReplicaProcess:
    """One `mesh_replica`. Its reports are the lines of its output."""

    def __init__(self, directory: Path, config: records_pb2.ReplicaConfig | str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "config.json"
        path.write_text(config if isinstance(config, str) else json_format.MessageToJson(config))
        self.output = directory / "reports.jsonl"
        self.log = directory / "replica.log"
        with self.output.open("wb") as output, self.log.open("wb") as log:
            self.popen = subprocess.Popen([str(replica_binary()), str(path)], stdout=output, stderr=log)

    def reports(self) -> list[records_pb2.ReplicaReport]:
        """Every report so far; a line that is still being written does not count."""
        lines = self.output.read_text().split("\n")[:-1]
        return [parse_report(line) for line in lines]

    def states(self) -> list[str]:
        return [report.state for report in self.reports()]

    def wait_state(self, state: str, *, timeout_s: float = START_TIMEOUT_S) -> records_pb2.ReplicaReport:
        """The report of entering `state`."""

        def look() -> records_pb2.ReplicaReport | None:
            found = [report for report in self.reports() if report.state == state]
            if not found and self.popen.poll() is not None:
                raise RuntimeError(f"ended with {self.popen.returncode} before {state}: {self.log_text()}")
            return found[0] if found else None

        found = eventually(look, timeout_s=timeout_s, what=f"state {state}; log: {self.log}")
        if found is None:
            raise AssertionError("unreachable")
        return found

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def log_records(self) -> list[dict[str, Any]]:
        """Our own records; Triton writes lines of another form to the same place."""
        return log_records(self.log_text())

    def terminate(self) -> None:
        self.popen.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 60.0) -> int:
        return self.popen.wait(timeout_s)

    def __enter__(self) -> ReplicaProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        if error is not None:
            sys.stderr.write(self.log_text()[-4000:])
