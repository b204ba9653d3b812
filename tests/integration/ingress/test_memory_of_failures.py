"""Requests that fail leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import psutil
from tritonclient.grpc import service_pb2 as pb

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_servers import Ingress

COUNT = 40_000
ROUNDS = 3
MIB = 1 << 20


def _fail(server: Ingress, count: int) -> None:
    request = infer_request("refusing", [("INPUT0", "FP32", (1,))], (bytes(4),))

    def requests() -> Iterator[pb.ModelInferRequest]:
        for _ in range(count):
            yield request

    answers = 0
    for answer in server.stub.ModelStreamInfer(requests(), timeout=120):
        assert answer.error_message == "not today"
        answers += 1
    assert answers == count


def test_failed_requests_leave_nothing(start_ingress: StartIngress) -> None:
    """An error that is not given back costs some 75 bytes: 3 MiB more after each round.

    A server's memory may still grow in one round, where more answers than before wait to be
    written; it does so in none of several rounds in a row unless something stays behind.
    """
    server = start_ingress("--model=refusing")
    process = psutil.Process(server.process.pid)
    _fail(server, COUNT)
    sizes = [process.memory_info().rss]
    for _ in range(ROUNDS):
        _fail(server, COUNT)
        sizes.append(process.memory_info().rss)
    growths = [after - before for before, after in pairwise(sizes)]
    assert min(growths) < MIB, growths
