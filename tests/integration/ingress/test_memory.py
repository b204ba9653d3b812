"""What large requests in flight cost: their payload and little else, in later rounds as in the first."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_servers import Ingress, in_flight
from tests.support.waiting import eventually

PAYLOAD = 10_000_000
MOST = 1.2  # of the payload
NOISE = 4 << 20
ROUNDS = 4
TIMEOUT_S = 120

T = TypeVar("T")


def call(server: Ingress, size: int) -> list[int]:
    request = infer_request("gated", [("INPUT0", "FP32", (size // 4,))], (bytes(size),))
    return [len(server.stub.ModelInfer(request, timeout=TIMEOUT_S).raw_output_contents[0])]


def stream(server: Ingress, size: int, count: int) -> list[int]:
    request = infer_request("gated", [("INPUT0", "FP32", (size // 4,))], (bytes(size),))
    answers = server.stub.ModelStreamInfer(iter([request] * count), timeout=TIMEOUT_S)
    return [len(answer.infer_response.raw_output_contents[0]) for answer in answers]


def post(server: Ingress, size: int) -> list[int]:
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [size // 4], "parameters": {"binary_data_size": size}}
    output = {"name": "OUTPUT0", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    with closing(http.client.HTTPConnection(server.address, timeout=TIMEOUT_S)) as connection:
        headers = {"Inference-Header-Content-Length": str(len(head))}
        connection.request("POST", "/v2/models/gated/infer", head + bytes(size), headers)
        answer = connection.getresponse()
        return [len(answer.read()) - int(answer.headers["Inference-Header-Content-Length"])]


def send(pool: ThreadPoolExecutor, way: str, server: Ingress, size: int, count: int) -> list[Future[list[int]]]:
    if way == "stream":
        return [pool.submit(stream, server, size, count)]
    return [pool.submit(call if way == "grpc" else post, server, size) for _ in range(count)]


def resident(server: Ingress) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


def settle_below(server: Ingress, most: int) -> None:
    eventually(lambda: resident(server) <= most, timeout_s=30, what=f"at most {most} resident bytes")


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("way", ["grpc", "http", "stream"])
def test_requests_that_wait_cost_their_payload(way: str, count: int, start_ingress: StartIngress, gate: Path) -> None:
    server = start_ingress("--model=gated")

    def pass_gate(pool: ThreadPoolExecutor, size: int, look: Callable[[], T]) -> T:
        """What is seen while all requests wait in Triton."""
        gate.unlink(missing_ok=True)
        asked = send(pool, way, server, size, count)
        eventually(lambda: in_flight(server) == count, timeout_s=90, what="all requests wait in Triton")
        seen = look()
        gate.touch()
        assert [n for one in asked for n in one.result(TIMEOUT_S)] == [size] * count
        return seen

    with ThreadPoolExecutor(count) as pool:
        idle = pass_gate(pool, 64, lambda: resident(server))  # with the threads and pools that small requests need
        for _ in range(ROUNDS):
            pass_gate(pool, PAYLOAD, lambda: settle_below(server, idle + int(MOST * count * PAYLOAD) + NOISE))
            settle_below(server, idle + NOISE)
