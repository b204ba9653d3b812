"""An ingress whose threads poll before they sleep, over Triton's threads, which do not."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_servers import metric

TENSORS = [("INPUT0", "FP32", (4,))]


def test_requests_are_answered_with_their_own_tensors(start_ingress: StartIngress) -> None:
    """With pauses, too, that are as long as it polls: Triton's answer then meets a thread on its way to sleep."""
    server = start_ingress("--model=id_fp32", "--busy-poll-us=200", "--event-loops=2")

    def ask(first: int) -> None:
        for i in range(first, first + 200):
            raw = i.to_bytes(4, "little") * 4
            answer = server.stub.ModelInfer(infer_request("id_fp32", TENSORS, (raw,)), timeout=60)
            assert answer.raw_output_contents[0] == raw
            time.sleep((i % 5) * 1e-4)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(0, 4000, 1000)))


def test_an_idle_ingress_takes_no_cpu_time(start_ingress: StartIngress) -> None:
    server = start_ingress("--model=id_fp32", "--busy-poll-us=1000", "--event-loops=2")
    assert server.stub.ModelInfer(infer_request("id_fp32", TENSORS, (bytes(16),)), timeout=60).outputs
    time.sleep(1)
    used = psutil.Process(server.process.pid).cpu_times
    before, slept = used(), metric(server, "mesh_rpc_loop_sleeps_total")
    time.sleep(2)
    after = used()
    assert after.user + after.system - before.user - before.system < 0.2
    assert metric(server, "mesh_rpc_loop_sleeps_total") - slept < 200
