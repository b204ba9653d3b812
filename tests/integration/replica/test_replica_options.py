"""Options of the embedded Triton that a specification gives a replica: they reach Triton."""

from __future__ import annotations

import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving._proto.records_pb2 import RateLimiter, RateLimiterResource, ResponseCache, TritonDeployment
from tests.integration.replica.replica_harness import ReplicaProcess, infer, replica_config, write_model

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
        text = _metrics(report.metrics_address)
        assert 'nv_cache_num_hits_per_model{model="kept",version="1"} 2' in text
        assert 'nv_cache_num_misses_per_model{model="kept",version="1"} 1' in text
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


def _write_limited(repository: Path) -> None:
    limiter = 'rate_limiter { resources [{ name: "seats" count: 2 }] }'
    group = f"instance_group [ {{ kind: KIND_CPU, count: 4, {limiter} }} ]"
    write_model(repository, "limited", delay_ms=100)
    config = repository / "limited" / "config.pbtxt"
    config.write_text(config.read_text().replace("instance_group [ { kind: KIND_CPU, count: 4 } ]", group))


def test_a_rate_limiter(tmp_path: Path, repository: Path, command: list[str]) -> None:
    """Four instances, but seats for two: so four requests take two turns."""
    _write_limited(repository)
    with ReplicaProcess(tmp_path / "replica", replica_config(command, triton=_limited(4))) as replica:
        address = replica.wait_state("ready").address
        with ThreadPoolExecutor(4) as pool:
            began = time.monotonic()
            answers = list(pool.map(lambda _: infer(address, "limited", values=[1.5]), range(4)))
            took_s = time.monotonic() - began
        assert all(np.array_equal(answer, [1.5]) for answer in answers)
        assert took_s >= 0.2
        replica.terminate()
        assert replica.wait() == 0, replica.log_text()


def test_a_model_that_wants_more_than_there_is(tmp_path: Path, repository: Path, command: list[str]) -> None:
    _write_limited(repository)
    with ReplicaProcess(tmp_path / "replica", replica_config(command, triton=_limited(1))) as replica:
        reason = replica.wait_state("failed").reason
        assert "limited" in reason
        assert "seats" in reason.lower()
