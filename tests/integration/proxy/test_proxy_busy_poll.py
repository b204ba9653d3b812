"""A proxy that polls before it sleeps."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
import pytest
from proxy_harness import Proxy, infer, proxy_binary, proxy_config, who
from sdk_harness import Replica

from tests.support.waiting import eventually

Replicas = Callable[..., list[Replica]]
StartProxy = Callable[..., Proxy]


def test_it_answers_and_sleeps_when_nothing_comes(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    proxy = start_proxy(one.address, busyPollUs=1000)
    assert {who(proxy.stub.ModelInfer(infer(), timeout=60)) for _ in range(200)} == {"one"}
    assert '"busy_poll_us":1000' in proxy.log.read_text(), "it says so"
    used = psutil.Process(proxy.process.pid).cpu_times
    time.sleep(1)  # settings and pings of the connections
    before, slept = used(), proxy.metric("mesh_rpc_loop_sleeps_total")
    time.sleep(2)
    after = used()
    assert after.user + after.system - before.user - before.system < 0.2
    assert proxy.metric("mesh_rpc_loop_sleeps_total") - slept < 200


def test_it_drains_promptly(replicas: Replicas, start_proxy: StartProxy) -> None:
    """What runs is finished, and then it ends at once, though clients were asking all the time."""
    (one,) = replicas("one")
    proxy = start_proxy(one.address, busyPollUs=1000)
    failed: list[grpc.RpcError] = []

    def ask() -> None:
        try:
            while True:
                proxy.stub.ModelInfer(infer(), timeout=60)
        except grpc.RpcError as error:
            failed.append(error)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    eventually(lambda: one.counts()["infer"] > 200, timeout_s=60, what="requests flow")
    began = time.monotonic()
    proxy.terminate()
    assert proxy.process.wait(60) == 0
    assert time.monotonic() - began < 20, "far less than the 30 s that a drain may take"
    for asker in askers:
        asker.join(60)
    assert [error.code() for error in failed] == [grpc.StatusCode.UNAVAILABLE] * len(askers)


@pytest.mark.parametrize("wrong", [-1, 1001])
def test_a_wrong_time_is_named(wrong: int, tmp_path: Path) -> None:
    file = tmp_path / "proxy.json"
    file.write_text(json.dumps(proxy_config(["127.0.0.1:1"], busyPollUs=wrong)))
    ended = subprocess.run([str(proxy_binary()), str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "field 'busyPollUs' must be between 0 and 1000" in ended.stderr
