"""Our parts for `broker_peers`: eight replicas, a broker from which they pull, and a proxy that pushes to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.broker_simulation import REPLICAS
from benchmarks.llm_parts import is_registered, program, wait_line
from benchmarks.proxy import running_proxy
from benchmarks.queue_client import APPLICATION
from benchmarks.queue_sleeper import MODEL
from serving._proto import records_pb2 as pb
from serving.local.etcd import EtcdOptions, start_etcd
from serving.store.records import encode


class MeshParts:
    """etcd and the replicas, which stay for all sides."""

    def __init__(self, folder: Path, etcd: list[str], replicas: list[str]) -> None:
        self.replicas = replicas  # their addresses
        self.etcd = etcd
        self._folder = folder

    @contextlib.contextmanager
    def broker(self, per_replica: int) -> Iterator[list[str]]:
        """Its client's arguments. `per_replica` 0: replicas find by measuring how many they hold."""
        name = f"queue-{per_replica}"
        config = _config(self._folder, self.etcd, name, "queue")
        journals = str(self._folder / name)
        config.broker.CopyFrom(pb.BrokerDeployment(before=[MODEL], per_replica=per_replica, path=journals))
        with _replica("serving.broker", self._folder, config):
            yield self.etcd

    @contextlib.contextmanager
    def proxy(self) -> Iterator[list[str]]:
        with running_proxy(self.replicas) as proxy:
            yield [proxy.address]

    @contextlib.contextmanager
    def alone(self) -> Iterator[list[str]]:
        yield self.replicas


@contextlib.contextmanager
def running_mesh(folder: Path) -> Iterator[MeshParts]:
    """Raises `FailedPrecondition` with what did not start."""
    folder.mkdir(parents=True)
    etcd = start_etcd(folder / "etcd", options=EtcdOptions(die_with_parent=True))
    try:
        endpoints = list(etcd.config().endpoints)
        with contextlib.ExitStack() as stack:
            replicas = []
            for number in range(REPLICAS):
                config = _config(folder, endpoints, f"{MODEL}-{number}", MODEL)
                sleeper = pb.PythonDeployment(entry="benchmarks.queue_sleeper:Sleeper", model=MODEL, threads=1)
                config.python.CopyFrom(sleeper)
                replicas.append(stack.enter_context(_replica("serving.python_deployment", folder, config)))
            yield MeshParts(folder, endpoints, replicas)
    finally:
        etcd.kill()


def _config(folder: Path, endpoints: list[str], name: str, deployment: str) -> pb.ReplicaConfig:
    return pb.ReplicaConfig(
        id=name,
        namespace="default",
        application=APPLICATION,
        deployment=deployment,
        cluster="bench",
        generation=1,
        revision=1,
        cache_dir=str(folder / "cache"),
        etcd=pb.EtcdConnection(endpoints=endpoints),
        drain_timeout_s=1.0,
    )


@contextlib.contextmanager
def _replica(module: str, folder: Path, config: pb.ReplicaConfig) -> Iterator[str]:
    """The address of one that is in discovery."""
    file = folder / f"{config.id}.json"
    file.write_text(encode(config).decode())
    with program(module, [str(file)], folder / f"{config.id}.log") as process:
        yield str(wait_line(process, is_registered)["address"])
