"""Answers that wait for that of an earlier request of their stream: what they may hold, and how many may wait."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from tritonclient.grpc import service_pb2

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_servers import Ingress
from tests.support.waiting import eventually

MIB = 1 << 20
MOST = 16 * 1024  # answers that may wait
GATED = infer_request("gated", [("INPUT0", "FP32", (4,))], (bytes(16),))
UNKNOWN = infer_request("nowhere", [("INPUT0", "FP32", (4,))], (bytes(16),))


def received_bytes(server: Ingress) -> int:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    return sum(
        int(float(line.split()[1])) for line in lines if line.startswith("mesh_ingress_infer_request_bytes_total")
    )


def test_a_refused_request_is_not_kept_while_its_answer_waits(start_ingress: StartIngress, gate: Path) -> None:
    server = start_ingress("--model=gated", "--model=id_fp32", "--max-requests=1")
    size, count = 60_000, 2000
    large = infer_request("id_fp32", [("INPUT0", "FP32", (size // 4,))], (bytes(size),))
    over = threading.Event()

    def requests() -> Iterator[service_pb2.ModelInferRequest]:
        yield GATED
        for _ in range(count):
            yield large
        over.wait(120)

    answers = server.stub.ModelStreamInfer(requests(), timeout=180)
    eventually(lambda: received_bytes(server) >= MIB, timeout_s=60, what="the first requests")
    before = psutil.Process(server.process.pid).memory_info().rss
    eventually(lambda: received_bytes(server) >= size * count, timeout_s=120, what="all requests")
    grown = psutil.Process(server.process.pid).memory_info().rss - before
    gate.touch()
    over.set()
    found = [answer.error_message for answer in answers]
    assert len(found) == count + 1
    assert (found[0], found[-1][:20]) == ("", "this replica is full")
    assert grown < 40 * MIB, f"{grown / MIB:.0f} MiB for refused requests of {size * count / MIB:.0f} MiB"


def test_more_answers_than_may_wait_end_the_stream(start_ingress: StartIngress, gate: Path) -> None:
    server = start_ingress("--model=gated")

    def requests() -> Iterator[service_pb2.ModelInferRequest]:
        yield GATED
        for _ in range(MOST + 1):
            yield UNKNOWN

    with pytest.raises(grpc.RpcError) as ended:
        list(server.stub.ModelStreamInfer(requests(), timeout=120))
    assert ended.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ended.value.details() == f"more than {MOST} requests of the stream wait for the answer of an earlier one"
    gate.touch()
