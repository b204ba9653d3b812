"""Options of the embedded Triton that a specification gives a replica: they reach Triton."""

from __future__ import annotations

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving._proto.records_pb2 import RateLimiter, RateLimiterResource, ResponseCache, TritonDeployment
from tests.integration.replica.replica_harness import ReplicaProcess, infer, replica_config, write_model
from tests.support.waiting import eventually

WAITING = 'nv_inference_pending_request_count{model="limited"'
IN_FLIGHT = "mesh_ingress_in_flight "
CACHED = "response_cache { enable: true }\n"


def _metrics(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def test_a_response_cache(tmp_path: Path, repository: Path, command: list[str]) -> None:
    write_model(repository, "kept", extra=CACHED)
    triton = TritonDeployment(response_cache=ResponseCache(type="local", size_bytes=1 << 20))
    with ReplicaProcess(tmp_path / "replica", replica_config(command, triton=triton)) as replica:
        report = replica.wait_state("ready")
        answers = [infer(report.address, "kept", values=[1.5, 2.5]) for _ in range(3)]
        assert all(np.array_equal(answer, [1.5, 2.5]) for answer in answers)
        for counted in ('hits_per_model{model="kept",version="1"} 2', 'misses_per_model{model="kept",version="1"} 1'):
            eventually(
                lambda counted=counted: f"nv_cache_num_{counted}" in _metrics(report.metrics_address),
                timeout_s=60,
                what=counted,
            )
        replica.terminate()
        assert replica.wait() == 0, replica.log_text()


def test_a_cache_that_the_node_does_not_have(tmp_path: Path, command: list[str]) -> None:
    answer = Path(command[-1])
    text = answer.read_text()
    answer.write_text(text.replace('"cacheDirectory": "', f'"cacheDirectory": "{tmp_path}/nowhere'))
    triton = TritonDeployment(response_cache=ResponseCache(type="local", size_bytes=1 << 20))
    with ReplicaProcess(tmp_path / "replica", replica_config(command, triton=triton)) as replica:
        reason = replica.wait_state("failed").reason
        assert "response cache" in reason
        assert f"{tmp_path}/nowhere" in reason


def _limited(count: int) -> TritonDeployment:
    resources = [RateLimiterResource(name="seats", count=count)]
    return TritonDeployment(rate_limiter=RateLimiter(mode="execution_count", resources=resources))


def _write_limited(repository: Path, gate: Path | None = None) -> None:
    """Four instances that take two seats each; none ends an execution before there is a file `gate`."""
    limiter = 'rate_limiter { resources [{ name: "seats" count: 2 }] }'
    group = f"instance_group [ {{ kind: KIND_CPU, count: 4, {limiter} }} ]"
    held = f'parameters {{ key: "execute_gate" value {{ string_value: "{gate}" }} }}\n' if gate else ""
    write_model(repository, "limited", extra=held)
    config = repository / "limited" / "config.pbtxt"
    config.write_text(config.read_text().replace("instance_group [ { kind: KIND_CPU, count: 4 } ]", group))


def _value(metrics_address: str, series: str) -> float:
    """Of the one series whose line begins so."""
    (line,) = [line for line in _metrics(metrics_address).splitlines() if line.startswith(series)]
    return float(line.split()[-1])


def test_a_rate_limiter(tmp_path: Path, repository: Path, command: list[str]) -> None:
    """Four instances, but seats for two: of four requests two run, and two wait until those have ended."""
    opened = tmp_path / "opened"
    _write_limited(repository, opened)
    with ReplicaProcess(tmp_path / "replica", replica_config(command, triton=_limited(4))) as replica:
        report = replica.wait_state("ready")
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(infer, report.address, "limited", values=[1.5]) for _ in range(4)]
            try:
                eventually(lambda: _value(report.metrics_address, IN_FLIGHT) == 4, timeout_s=30, what="four requests")
                eventually(lambda: _value(report.metrics_address, WAITING) == 2, timeout_s=30, what="two to run")
                # And the other two are not on their way. (No inference can show it: Triton lets all wait behind them.)
                assert [_value(report.metrics_address, WAITING) for _ in range(5)] == [2] * 5
            finally:
                opened.touch()
            assert all(np.array_equal(call.result(), [1.5]) for call in calls)
        replica.terminate()
        assert replica.wait() == 0, replica.log_text()


def test_a_model_that_wants_more_than_there_is(tmp_path: Path, repository: Path, command: list[str]) -> None:
    _write_limited(repository)
    with ReplicaProcess(tmp_path / "replica", replica_config(command, triton=_limited(1))) as replica:
        reason = replica.wait_state("failed").reason
        assert "limited" in reason
        assert "seats" in reason.lower()
