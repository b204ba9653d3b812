"""Queue policies (size, timeouts, priorities) and warm-up, beside `tritonserver`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.local.ports import free_ports
from tests.contract.corpus_control import IDENTITY, load
from tests.contract.corpus_infer import numbers, times_out, with_parameters
from tests.contract.exchange import Case, call, differences, infer, one
from tests.contract.pairs import Pair, start_pair
from tests.contract.test_rate_limiter import finished
from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_models import delay, text_parameter, write_model
from tests.integration.ingress.kserve_models import pair as same_tensors
from tests.integration.ingress.kserve_servers import KServeProcess, series
from tests.support.waiting import eventually

ONE_INSTANCE = "instance_group [{ kind: KIND_CPU count: 1 }]\n"
GATE = "opened"  # where a model that waits for it looks, in the model's folder
Said = tuple[str, str]


def _queue(policy: str, extra: str = "") -> str:
    return f"dynamic_batching {{ default_queue_policy {{ {policy} }} {extra} }}\n{ONE_INSTANCE}"


def write_queue_repository(repository: Path) -> Path:
    def busy(name: str, queue: str) -> None:
        write_model(repository, name, same_tensors("FP32", "[4]"), batch=1, extra=queue + delay(300))

    def gated(name: str, queue: str) -> None:
        gate = text_parameter("execute_gate", str(repository / name / GATE))
        write_model(repository, name, same_tensors("FP32", "[4]"), batch=1, extra=queue + gate + delay(50))

    gated("short", _queue("max_queue_size: 2"))
    busy("impatient", _queue("timeout_action: REJECT default_timeout_microseconds: 150000"))
    busy("stubborn", _queue("timeout_action: REJECT default_timeout_microseconds: 150000 allow_timeout_override: true"))
    busy("patient", _queue("timeout_action: DELAY default_timeout_microseconds: 150000"))
    gated("levels", _queue("max_queue_size: 100", "priority_levels: 2 default_priority_level: 2"))
    write_model(repository, "warmed", same_tensors("FP32", "[-1]"))
    return repository


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("queues")


@pytest.fixture(scope="module")
def their_metrics() -> str:
    (port,) = free_ports(1)
    return f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def servers(folder: Path, their_metrics: str) -> Iterator[Pair]:
    metrics = ["--allow-metrics=true", f"--metrics-port={their_metrics.rpartition(':')[2]}"]
    with start_pair(folder, write_queue_repository(folder / "models"), theirs=metrics) as pair:
        yield pair


@pytest.fixture
def queues(servers: Pair) -> Iterator[Pair]:
    yield servers
    servers.must_live()


def _ask(server: KServeProcess, request: pb.ModelInferRequest) -> Said:
    try:
        server.stub.ModelInfer(request, timeout=60)
    except grpc.RpcError as error:
        return error.code().name, re.sub(r"^\[request id: [^\]]*\] ", "", error.details() or "")
    return "OK", ""


Until = Callable[[Sequence[Future[Said]]], None]


def _at_once(server: KServeProcess, requests: Sequence[pb.ModelInferRequest], until: Until | None = None) -> list[Said]:
    """What each was told; `until` is called when all have been sent."""
    with ThreadPoolExecutor(len(requests)) as pool:
        asked = [pool.submit(_ask, server, request) for request in requests]
        if until is not None:
            until(asked)
        return [each.result() for each in asked]


def _busy(model: str, **parameters: object) -> pb.ModelInferRequest:
    return with_parameters(infer_request(model, [("INPUT0", "FP32", (1, 4))], (bytes(16),)), **parameters)


@pytest.mark.parametrize(
    ("model", "parameters", "code"),
    [
        ("impatient", {}, "UNAVAILABLE"),
        ("impatient", {"timeout": 60_000_000}, "UNAVAILABLE"),  # may not be overridden
        ("stubborn", {"timeout": 150_000}, "UNAVAILABLE"),
        ("patient", {}, ""),
    ],
    ids=lambda value: str(value),
)
def test_what_waits_too_long(model: str, parameters: dict[str, object], code: str, queues: Pair) -> None:
    """Six at once where one runs at a time for 0.3 s: some are answered, the others refused in the same words."""
    wanted = {"OK", code} if code else {"OK"}
    said: list[set[Said]] = []
    for server in (queues.ours, queues.theirs):
        answers: set[Said] = set()

        def both(server: KServeProcess = server, answers: set[Said] = answers) -> bool:
            """Again, where the machine is too busy to send six at once, or stops while the first waits."""
            answers.update(_at_once(server, [_busy(model, **parameters)] * 6))
            return {each for each, _ in answers} >= wanted

        eventually(both, timeout_s=60, what=f"{wanted}")
        said.append(answers)
    assert said[0] == said[1]
    assert {each for each, _ in said[0]} == wanted


def test_a_full_queue(queues: Pair, folder: Path) -> None:
    """While nothing ends, two wait, one runs and one has left the queue: two of six are refused, in the same words."""
    opened = folder / "models" / "short" / GATE

    def two_refused(asked: Sequence[Future[Said]]) -> None:
        try:
            eventually(lambda: sum(each.done() for each in asked) >= 2, timeout_s=30, what="two refusals")
        finally:
            opened.touch()

    refused: list[set[Said]] = []
    for server in (queues.ours, queues.theirs):
        opened.unlink(missing_ok=True)
        said = _at_once(server, [_busy("short")] * 6, two_refused)
        assert 2 <= said.count(("OK", "")) <= 4, said
        refused.append(set(said) - {("OK", "")})
    assert refused[0] == refused[1]
    assert [code for code, _ in refused[0]] == ["UNAVAILABLE"]


def test_priority_levels(queues: Pair, folder: Path, their_metrics: str) -> None:
    """What is urgent overtakes what came before it, but for what was given to the instance already."""
    opened = folder / "models" / "levels" / GATE
    for server, metrics in ((queues.ours, queues.ours.metrics_address), (queues.theirs, their_metrics)):

        def all_wait(metrics: str = metrics) -> None:
            waiting = 'nv_inference_pending_request_count{model="levels"'
            try:
                eventually(lambda: series(metrics, waiting) == [11], timeout_s=30, what="all but the one that runs")
            finally:
                opened.touch()

        opened.unlink(missing_ok=True)
        requests = [_busy("levels", priority=level) for level in [2] * 6 + [1] * 6]
        for request in requests:
            request.id = "urgent" if request.parameters["priority"].int64_param == 1 else "patient"
        order = finished(server, requests, all_wait).order
        assert order[6:].count("patient") >= 4, order


def _warm(**sample: object) -> str:
    tensor = {"data_type": "TYPE_FP32", "dims": [4], "zero_data": True}
    inputs = {"INPUT0": tensor}
    return json.dumps(json.loads(IDENTITY) | {"model_warmup": [{"name": "sample", "inputs": inputs} | sample]})


def warm_cases() -> Iterator[Case]:
    use = infer(numbers("warmed", [1, 2]))
    look = call("ModelStatistics", pb.ModelStatisticsRequest(name="warmed"), view=times_out)
    random = {"data_type": "TYPE_FP32", "dims": [4], "random_data": True}
    missing = {"data_type": "TYPE_FP32", "dims": [4], "input_data_file": "nowhere"}
    other = {"data_type": "TYPE_INT32", "dims": [4], "zero_data": True}
    for name, config in {
        "zeros": _warm(batch_size=0),
        "three times": _warm(batch_size=0, count=3),
        "random": _warm(inputs={"INPUT0": random}),
        "a file that is not there": _warm(inputs={"INPUT0": missing}),
        "an input that is not there": _warm(inputs={"NOPE": random}),
        "no inputs": _warm(inputs={}),
        "another datatype": _warm(inputs={"INPUT0": other}),
        "a batch": _warm(batch_size=2),
        "without a name": _warm(name=""),
    }.items():
        yield one(f"warm-up: {name}", load("warmed", config=config), use, look)
    yield one("without warm-up again", load("warmed"), use, look)


@pytest.mark.parametrize("case", list(warm_cases()), ids=lambda case: case.name)
def test_warm_up(case: Case, queues: Pair) -> None:
    found = differences(queues, case)
    assert not found, "\n".join(found)
