"""A real replica in this process, asked by real clients."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc.aio as triton

from serving._proto import records_pb2 as pb
from serving.config import TlsConfig
from serving.python_deployment.replica import Replica
from serving.store.records import decode
from tests.support.waiting import eventually

CLASSES = "tests.integration.python_deployment.classes"


class Served:
    """A replica that is ready, or has failed."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    @property
    def report(self) -> pb.ReplicaReport:
        return decode(pb.ReplicaReport, self.replica.report().encode())

    def wait_state(self, *states: str, timeout_s: float = 20.0) -> pb.ReplicaReport:
        def there() -> pb.ReplicaReport | None:
            report = self.report
            return report if report.state in states else None

        found = eventually(there, timeout_s=timeout_s, what=f"state {states}")
        assert found is not None
        return found

    @property
    def address(self) -> str:
        return self.report.address


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts replicas; ends them after the test."""
    started: list[Replica] = []

    def start(name: str, *, config: dict[str, Any] | None = None, wait: str = "ready", **args: Any) -> Served:
        options = {key: args.pop(key) for key in ("max_requests", "model", "threads") if key in args}
        tls: TlsConfig | None = args.pop("tls", None)
        record = pb.ReplicaConfig(
            id="it-r1-0",
            namespace="default",
            application="app",
            deployment="it",
            cluster="east",
            generation=1,
            revision=1,
            cache_dir=str(tmp_path / "cache"),
            log_file=str(tmp_path / "replica.log"),
            log_level="debug",
            python=pb.PythonDeployment(
                entry=name if ":" in name else f"{CLASSES}:{name}",
                args=json.dumps(args) if args else "",
                config=json.dumps(config) if config else "",
                **options,
            ),
        )
        if tls is not None:
            files = pb.TlsFiles(ca=tls.ca_file, cert=tls.cert_file, key=tls.key_file)
            record.serving_tls.CopyFrom(files)
        replica = Replica(record, on_drained=lambda: None)
        started.append(replica)
        replica.start()
        served = Served(replica)
        served.wait_state(wait)
        return served

    yield start
    for replica in started:
        replica.stop()


@pytest.fixture
async def client() -> AsyncIterator[Callable[[Served], triton.InferenceServerClient]]:
    """Opens clients; closes them after the test."""
    opened: list[triton.InferenceServerClient] = []

    def open_client(served: Served) -> triton.InferenceServerClient:
        made = triton.InferenceServerClient(served.address)
        opened.append(made)
        return made

    yield open_client
    for made in opened:
        await made.close()
