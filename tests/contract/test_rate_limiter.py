"""Triton's rate limiter: resources bound what runs at a time, priorities say who is next; beside `tritonserver`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.local.ports import free_ports
from tests.contract.corpus_control import IDENTITY, load, unload
from tests.contract.corpus_infer import numbers
from tests.contract.exchange import Case, call, differences, infer, one, stream
from tests.contract.pairs import Pair, start_pair
from tests.integration.ingress.kserve_models import delay, text_parameter, write_model
from tests.integration.ingress.kserve_models import pair as same_tensors
from tests.integration.ingress.kserve_servers import KServeProcess, series
from tests.support.waiting import eventually

EXECUTION_S = 0.1  # of one request of a slow model
GATE = "opened"
RESOURCES = ("seats:2", "turn:1", "BOTH:1")


def _group(count: int, *resources: str, priority: int = 0) -> str:
    """Instances that want `name:count` each; a name in capitals is global."""
    wanted = [entry.split(":") for entry in resources]
    listed = ", ".join(
        f'{{ name: "{name}" count: {number} {"global: true" if name.isupper() else ""} }}' for name, number in wanted
    )
    limiter = f"rate_limiter {{ resources [{listed}] {f'priority: {priority}' if priority else ''} }}"
    return f"instance_group [{{ kind: KIND_CPU count: {count} {limiter if resources else ''} }}]\n"


def _write_slow(repository: Path, name: str, group: str) -> None:
    """An execution waits, besides, for a file that stands there but where a test takes it away."""
    gate = repository / name / GATE
    extra = group + delay(round(EXECUTION_S * 1000)) + text_parameter("execute_gate", str(gate))
    write_model(repository, name, same_tensors("FP32", "[1]"), extra=extra)
    gate.touch()


def write_limited_repository(repository: Path) -> Path:
    floats = same_tensors("FP32", "[-1]")
    write_model(repository, "plain", floats)
    write_model(repository, "limited", floats, extra=_group(2, "seats:1", priority=2) + delay(20))
    write_model(repository, "changed", floats, extra=_group(2, "seats:2"))
    _write_slow(repository, "free", _group(3))
    _write_slow(repository, "pairs", _group(3, "seats:1"))
    _write_slow(repository, "alone", _group(3, "seats:2"))
    _write_slow(repository, "shared_one", _group(1, "BOTH:1"))
    _write_slow(repository, "shared_two", _group(1, "BOTH:1"))
    _write_slow(repository, "often", _group(1, "turn:1", priority=1))
    _write_slow(repository, "seldom", _group(1, "turn:1", priority=4))
    return repository


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("limited")


@pytest.fixture(scope="module")
def their_metrics() -> str:
    (port,) = free_ports(1)
    return f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def servers(folder: Path, their_metrics: str) -> Iterator[Pair]:
    theirs = [
        "--allow-metrics=true",
        f"--metrics-port={their_metrics.rpartition(':')[2]}",
        "--rate-limit=execution_count",
    ]
    theirs += [f"--rate-limit-resource={entry}" for entry in RESOURCES]
    ours = [f"--rate-limiter={','.join(RESOURCES)}"]
    with start_pair(folder, write_limited_repository(folder / "models"), ours, theirs) as pair:
        yield pair


@pytest.fixture
def limited(servers: Pair) -> Iterator[Pair]:
    yield servers
    servers.must_live()


def cases() -> Iterator[Case]:
    for model in ("plain", "limited", "changed"):
        request = numbers(model, [1, 2])
        yield one(model, infer(request), stream(*[request] * 5), call("ModelConfig", pb.ModelConfigRequest(name=model)))
    use = infer(numbers("changed", [1]))
    for wanted in ("seats:3", "turn:2", "other:9", "BOTH:2"):
        name, count = wanted.split(":")
        resource = {"name": name, "count": int(count), "global": name.isupper()}
        group = {"kind": "KIND_CPU", "rate_limiter": {"resources": [resource]}}
        config = json.dumps(json.loads(IDENTITY) | {"instance_group": [group]})
        yield one(f"loaded with {wanted}", load("changed", config=config), use)
    yield one("as before", load("changed"), use, unload("changed"), use, load("changed"), use)


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_same(case: Case, limited: Pair) -> None:
    found = differences(limited, case)
    assert not found, "\n".join(found)


@dataclass(frozen=True)
class Finished:
    """What became of requests that were all sent at once: their models in the order of their answers."""

    order: list[str]
    took_s: float


def finished(
    server: KServeProcess, requests: Sequence[pb.ModelInferRequest], until: Callable[[], None] | None = None
) -> Finished:
    """Sends all at once, in their order, and waits for all; `until` is called when all have been sent."""
    order: list[str] = []

    def answered(model: str) -> None:
        order.append(model)

    began = time.monotonic()
    futures = [server.stub.ModelInfer.future(request, timeout=60) for request in requests]
    for request, future in zip(requests, futures, strict=True):
        future.add_done_callback(lambda _, name=request.id or request.model_name: answered(name))
    if until is not None:
        until()
    for future in futures:
        assert future.result() is not None
    took_s = time.monotonic() - began
    eventually(lambda: len(order) == len(requests), timeout_s=30, what="all callbacks")
    return Finished(order, took_s)


def _asked(models: Sequence[str]) -> list[pb.ModelInferRequest]:
    return [numbers(model, [1]) for model in models]


@pytest.mark.parametrize(
    ("models", "bound"),
    [(["pairs"], 2), (["alone"], 1), (["shared_one", "shared_two"], 1), (["pairs", "alone"], 2)],
    ids=lambda value: "+".join(value) if isinstance(value, list) else None,
)
def test_a_resource_bounds_what_runs(models: list[str], bound: int, limited: Pair) -> None:
    """Twelve executions, of which so many may run at a time, take at least as long as they do one after the other."""
    for server in (limited.ours, limited.theirs):
        done = finished(server, _asked(models * (12 // len(models))))
        assert done.took_s >= 12 / bound * EXECUTION_S, server.address


@pytest.mark.parametrize(("model", "together"), [("free", 3), ("pairs", 2)])
def test_what_is_free_runs_at_once(model: str, together: int, limited: Pair, folder: Path, their_metrics: str) -> None:
    """So that the bounds are the resources' doing: without them, and with two seats, requests do run together."""
    gate = folder / "models" / model / GATE
    for server, metrics in ((limited.ours, limited.ours.metrics_address), (limited.theirs, their_metrics)):

        def others_wait(metrics: str = metrics) -> None:
            waiting = f'nv_inference_pending_request_count{{model="{model}"'
            try:
                eventually(
                    lambda: series(metrics, waiting) == [12 - together], timeout_s=60, what=f"{together} at a time"
                )
            finally:
                gate.touch()

        gate.unlink()
        finished(server, _asked([model] * 12), others_wait)


def test_without_named_resources(tmp_path: Path) -> None:
    """There is as much of each as the neediest instance wants: then one of these runs at a time."""
    repository = tmp_path / "models"
    _write_slow(repository, "pairs", _group(3, "seats:2"))
    _write_slow(repository, "global", _group(2, "BOTH:1"))
    with start_pair(tmp_path, repository, ["--rate-limiter="], ["--rate-limit=execution_count"]) as pair:
        for server in (pair.ours, pair.theirs):
            for model in ("pairs", "global"):
                assert finished(server, _asked([model] * 6)).took_s >= 6 * EXECUTION_S


def test_priorities(limited: Pair) -> None:
    """Both compete for one turn; priority 1 gets it about four times as often as priority 4."""
    for server in (limited.ours, limited.theirs):
        order = finished(server, _asked(["seldom", "often"] * 12)).order
        assert order[:12].count("often") >= 8, order
