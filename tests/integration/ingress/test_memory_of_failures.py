"""Requests that fail leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
from tritonclient.grpc import service_pb2 as pb

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_servers import Ingress

COUNT = 60_000
MIB = 1 << 20


def _fail(server: Ingress, count: int) -> None:
    request = infer_request("refusing", [("INPUT0", "FP32", (1,))], (bytes(4),))

    def requests() -> Iterator[pb.ModelInferRequest]:
        for _ in range(count):
            yield request

    answers = 0
    for answer in server.stub.ModelStreamInfer(requests(), timeout=150):
        assert answer.error_message == "not today"
        answers += 1
    assert answers == count


def test_failed_requests_leave_nothing(start_ingress: StartIngress) -> None:
    """An error that is not given back costs some 75 bytes, 4 MiB for those of the second call."""
    server = start_ingress("--model=refusing")
    process = psutil.Process(server.process.pid)
    _fail(server, COUNT)
    before = process.memory_info().rss
    _fail(server, COUNT)
    assert process.memory_info().rss - before < 2 * MIB
