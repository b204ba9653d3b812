"""Triton's local response cache: what is kept, counted and refused, beside `tritonserver` with the same."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.local.ports import free_ports
from tests.contract.corpus_control import IDENTITY, load, unload
from tests.contract.corpus_infer import numbers, times_out, with_parameters
from tests.contract.exchange import Case, call, differences, infer, one, send, stream
from tests.contract.models import SENT_MODEL, write_ensemble, write_python
from tests.contract.pairs import Pair, start_pair
from tests.integration.ingress.kserve_cases import elements, infer_request
from tests.integration.ingress.kserve_models import pair as same_tensors
from tests.integration.ingress.kserve_models import tensor, write_model
from tests.integration.ingress.kserve_servers import TRITON_FOLDER, KServeProcess

CACHED = "response_cache { enable: true }\n"
CACHE_BYTES = 256 * 1024
# Answers with a number that no two executions share.
COUNTING_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.executions = 0

    def execute(self, requests):
        responses = []
        for _ in requests:
            self.executions += 1
            output = pb_utils.Tensor("OUTPUT0", np.array([self.executions], dtype=np.float32))
            responses.append(pb_utils.InferenceResponse([output]))
        return responses
"""
FAILING_MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError("no")) for _ in requests]
"""


def write_cached_repository(repository: Path) -> Path:
    floats = same_tensors("FP32", "[-1]")
    write_model(repository, "plain", floats)
    (write_model(repository, "kept", floats, extra=CACHED + "version_policy { all {} }\n") / "2").mkdir()
    write_model(
        repository, "kept_batches", same_tensors("FP32", "[2]"), batch=4, extra=CACHED + "dynamic_batching {}\n"
    )
    write_model(repository, "kept_texts", same_tensors("STRING", "[-1]"), extra=CACHED)
    two = tensor("input", "A", "FP32", "[-1]") + tensor("input", "B", "INT32", "[-1]")
    two += tensor("output", "OA", "FP32", "[-1]") + tensor("output", "OB", "INT32", "[-1]")
    write_model(repository, "kept_two", two, extra=CACHED)
    counted = tensor("input", "INPUT0", "FP32", "[-1]") + tensor("output", "OUTPUT0", "FP32", "[1]")
    write_python(repository, "counting", COUNTING_MODEL, counted, extra=CACHED)
    write_python(repository, "kept_failing", FAILING_MODEL, floats, extra=CACHED)
    write_ensemble(repository, "kept_chain", "plain", "kept", extra=CACHED)
    write_ensemble(repository, "plain_chain", "plain", "kept")
    write_model(repository, "reloaded", floats, extra=CACHED)
    return repository


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pair, str]]:
    """The pair with a cache, and the address of their metrics."""
    folder = tmp_path_factory.mktemp("cached")
    repository = write_cached_repository(folder / "models")
    caches = TRITON_FOLDER / "caches"
    (port,) = free_ports(1)
    ours = [f"--cache-bytes={CACHE_BYTES}", f"--caches={caches}"]
    theirs = [f"--cache-config=local,size={CACHE_BYTES}", f"--cache-directory={caches}"]
    theirs += ["--allow-metrics=true", f"--metrics-port={port}", "--metrics-address=127.0.0.1"]
    with start_pair(folder, repository, ours, theirs) as pair:
        yield pair, f"127.0.0.1:{port}"


@pytest.fixture
def cached(servers: tuple[Pair, str]) -> Iterator[Pair]:
    yield servers[0]
    servers[0].must_live()


def _look(name: str, version: str = "") -> object:
    return call("ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version), view=times_out)


def _twice(name: str, request: pb.ModelInferRequest) -> Case:
    """Asked twice alone, once on a stream: the second and the third answer come from the cache."""
    model = request.model_name
    return one(name, infer(request), infer(request), stream(request), _look(model))


def _two(outputs: Sequence[str], second: bytes = b"\1\0\0\0") -> pb.ModelInferRequest:
    return infer_request("kept_two", [("A", "FP32", (1,)), ("B", "INT32", (1,))], (b"\0" * 4, second), outputs)


def cases() -> Iterator[Case]:
    yield _twice("asked again", numbers("kept", [1, 2, 3]))
    yield _twice("without opting in", numbers("plain", [1, 2, 3]))
    yield one("another input", infer(numbers("kept", [1, 2, 3.5])), infer(numbers("kept", [1, 2])), _look("kept"))
    empty = infer(numbers("kept", []))
    yield one("nothing", empty, empty, _look("kept"))
    yield one("another id", infer(numbers("kept", [7], "first")), infer(numbers("kept", [7], "second")), _look("kept"))
    given = with_parameters(numbers("kept", [7], "third"), custom=1)
    yield one("other parameters", infer(given), infer(with_parameters(given, custom=2)), _look("kept"))
    other = numbers("kept", [1, 2, 3], version="1")
    yield one("another version", infer(other), infer(other), _look("kept", "1"), _look("kept", "2"))
    for size in (1, 2, 4):
        batch = infer_request("kept_batches", [("INPUT0", "FP32", (size, 2))], (bytes(8 * size),))
        yield _twice(f"a batch of {size}", batch)
    raw = elements(b"", b"\0\xff", b"x" * 500)
    yield _twice("texts", infer_request("kept_texts", [("INPUT0", "BYTES", (3,))], (raw,)))
    yield _twice("all outputs", _two([]))
    yield _twice("one of the outputs", _two(["OB"]))
    yield one("the other one", infer(_two(["OA"])), infer(_two(["OB", "OA"])), _look("kept_two"))
    yield one("one more input", infer(_two([], b"\2\0\0\0")), _look("kept_two"))
    yield _twice("the model's error", numbers("kept_failing", [1]))
    yield _twice("an ensemble", numbers("kept_chain", [1, 2]))
    yield one("a part of an ensemble", *_twice("", numbers("plain_chain", [5, 6])).steps, _look("kept"))
    yield one("larger than the cache", *[infer(numbers("kept", [1.5] * 100_000))] * 2, _look("kept"))
    # Each answer takes a sixth of the cache: those of the beginning have gone when they are asked for again.
    rounds = [infer(numbers("kept", [number] + [0] * 10_000)) for number in (*range(10), 0, 9)]
    yield one("more than the cache holds", *rounds, _look("kept"))


def _changed(**fields: object) -> str:
    return json.dumps(json.loads(IDENTITY) | {"response_cache": {"enable": True}} | fields)


def control_cases() -> Iterator[Case]:
    sequence = _changed(max_batch_size=1, sequence_batching={})
    decoupled = _changed(model_transaction_policy={"decoupled": True})
    use = infer(numbers("reloaded", [1]))
    yield one("loaded again", use, load("reloaded"), use, use, _look("reloaded"))
    yield one("unloaded between", unload("reloaded"), load("reloaded"), use, _look("reloaded"))
    yield one("with sequences", load("reloaded", config=sequence), use)
    yield one("decoupled", load("reloaded", config=decoupled), use)
    # Answers are kept by the model's name and version: another file is answered for by the one before.
    sent = {"config": _changed(backend="python"), "file:1/model.py": SENT_MODEL.encode()}
    yield one("another file", use, load("reloaded", **sent), use, infer(numbers("reloaded", [2])), _look("reloaded"))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_same(case: Case, cached: Pair) -> None:
    found = differences(cached, case)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("case", list(control_cases()), ids=lambda case: case.name)
def test_same_when_models_change(case: Case, cached: Pair) -> None:
    found = differences(cached, case)
    assert not found, "\n".join(found)


def test_an_empty_answer_on_a_stream(cached: Pair) -> None:
    """What `tritonserver` kept of a tensor without elements it cannot send on a stream."""
    request = numbers("kept", [])
    assert send(cached.ours, infer(request)) == send(cached.theirs, infer(request))
    ours, theirs = (send(server, stream(request)) for server in (cached.ours, cached.theirs))
    assert "response output count mismatch" in str(theirs)
    assert "error_message" not in str(ours)
    assert "shape: 0" in str(ours)


def test_the_model_is_not_executed_again(cached: Pair) -> None:
    first, second = infer(numbers("counting", [1])), infer(numbers("counting", [2]))
    server = cached.ours
    asked = [send(server, step).answers for step in (first, second, first, second, first)]
    assert asked[0] == asked[2] == asked[4]
    assert asked[1] == asked[3]
    assert asked[0] != asked[1]
    counted = server.stub.ModelStatistics(pb.ModelStatisticsRequest(name="counting")).model_stats[0]
    assert (counted.execution_count, counted.inference_count) == (2, 2)
    assert (counted.inference_stats.cache_hit.count, counted.inference_stats.cache_miss.count) == (3, 2)
    assert counted.inference_stats.cache_hit.ns > 0


def _cache_metrics(address: str) -> set[str]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        return set(re.findall(r"^(nv_cache_\w+)(?:{[^}]*})? ", answer.read().decode(), re.MULTILINE))


def test_metrics(servers: tuple[Pair, str]) -> None:
    pair, theirs = servers
    for server in (pair.ours, pair.theirs):
        assert send(server, infer(numbers("kept", [1]))).code == "OK"
    found = _cache_metrics(pair.ours.address)
    assert {"nv_cache_num_hits_per_model", "nv_cache_num_misses_per_model"} <= found
    assert found == _cache_metrics(pair.ours.metrics_address) == _cache_metrics(theirs)


def test_a_server_without_a_cache(tmp_path: Path) -> None:
    """A model that asks for one is answered by executing it, each time."""
    repository = tmp_path / "models"
    write_model(repository, "kept", same_tensors("FP32", "[-1]"), extra=CACHED)
    with start_pair(tmp_path, repository) as pair:
        case = one("", *[infer(numbers("kept", [1]))] * 3, _look("kept"), _config("kept"))
        found = differences(pair, case)
        assert not found, "\n".join(found)
        statistics = pair.ours.stub.ModelStatistics(pb.ModelStatisticsRequest(name="kept")).model_stats[0]
        assert statistics.execution_count == 3
        assert not _cache_hits(pair.ours)


def _config(name: str) -> object:
    return call("ModelConfig", pb.ModelConfigRequest(name=name))


def _cache_hits(server: KServeProcess) -> int:
    statistics = server.stub.ModelStatistics(pb.ModelStatisticsRequest(name="kept")).model_stats[0]
    return int(statistics.inference_stats.cache_hit.count)
