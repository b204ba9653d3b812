"""ModelStreamInfer: the same streams to the ingress and to `tritonserver`, and what only the ingress promises."""

from __future__ import annotations

import queue
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_cases import cases, infer_request, of_sequence
from tests.integration.ingress.kserve_servers import Ingress, KServeProcess, Oracle, gauge, in_flight, metric
from tests.support.waiting import eventually

ERROR_CODES = (("triton_grpc_error", "true"),)
EMPTY_FINAL = "triton_enable_empty_final_response"
UNARY_CASES = cases()
# A difference that is wanted: the model's stack is logged, not sent.
OTHER_WORDS = {"failing", "classification as text", "parameter without value"}

# tritonserver aborts now and then when a decoupled model answers a stream beside another one.
ORACLE_ENDS = "decoupled model"
TRIES = 3


def request(model: str, values: Sequence[float], request_id: str = "", **flags: bool) -> pb.ModelInferRequest:
    raw = struct.pack(f"<{len(values)}f", *values)
    made = infer_request(model, [("INPUT0", "FP32", (len(values),))], (raw,), request_id=request_id)
    for key, value in flags.items():
        made.parameters[key].bool_param = value
    return made


def sequence(number: int | str, *, start: bool = False, end: bool = False) -> pb.ModelInferRequest:
    made = infer_request("seq", [("INPUT0", "FP32", (1, 4))], request_id=f"{number}")
    return of_sequence(made, number, start=start, end=end)


def stream(
    server: KServeProcess, requests: Sequence[pb.ModelInferRequest], metadata: Sequence[tuple[str, str]] = ()
) -> tuple[list[pb.ModelStreamInferResponse], tuple[str, str]]:
    """All answers, and how the stream ended."""
    answers = []
    try:
        for answer in server.stub.ModelStreamInfer(iter(requests), timeout=60, metadata=metadata):
            answers.append(answer)
    except grpc.RpcError as error:
        return answers, (error.code().name, error.details() or "")
    return answers, ("OK", "")


def their_stream(
    oracle: Oracle, requests: Sequence[pb.ModelInferRequest], metadata: Sequence[tuple[str, str]] = ()
) -> tuple[list[pb.ModelStreamInferResponse], tuple[str, str]]:
    """As `stream`, again where the server ends of it."""
    for _ in range(TRIES):
        answers, end = stream(oracle, requests, metadata)
        if oracle.survives(end[0]):
            break
        oracle.revive()
    return answers, end


STREAMS: dict[str, list[pb.ModelInferRequest]] = {
    "nothing": [],
    "one": [request("id_fp32", [1], "a")],
    "one, empty final asked": [request("id_fp32", [1], "a", **{EMPTY_FINAL: True})],
    "order of requests": [request("slow", [1], "slow"), request("id_fp32", [2], "fast")],
    "an error waits for its turn": [request("slow", [1], "slow"), request("nope", [1], "bad")],
    "decoupled": [request("repeat", [1, 2, 3], "a")],
    "decoupled, empty final": [request("repeat", [1, 2], "a", **{EMPTY_FINAL: True})],
    "decoupled, no response": [request("repeat", [], "a")],
    "decoupled, only the empty final": [request("repeat", [], "a", **{EMPTY_FINAL: True})],
    "decoupled, error between": [request("repeat", [1, -1, 2], "a", **{EMPTY_FINAL: True})],
    "goes on after an error": [request("nope", [1], "x"), request("id_fp32", [1], "y")],
    "sequence": [sequence(5, start=True), sequence(5), sequence(5, end=True)],
    "sequence with a text id": [sequence("five", start=True), sequence("five", end=True)],
    "sequence that was not started": [sequence(6)],
    "two sequences": [
        sequence(7, start=True),
        sequence("b", start=True),
        sequence(7, end=True),
        sequence("b", end=True),
    ],
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams(name: str, ingress: Ingress, oracle: Oracle) -> None:
    assert stream(ingress, STREAMS[name]) == their_stream(oracle, STREAMS[name])


def overtaken(server: KServeProcess, gate: Path) -> list[str]:
    """The ids of the answers in their order, and the code of a stream that did not end well."""
    gate.unlink(missing_ok=True)
    found = []
    try:
        for answer in server.stub.ModelStreamInfer(
            iter([request("gated", [1], "waits"), request("repeat", [1], "overtakes")]), timeout=60
        ):
            found.append(answer.infer_response.id)
            gate.touch()
    except grpc.RpcError as error:
        found.append(error.code().name)
    return found


def test_an_answer_of_a_decoupled_model_overtakes(ingress: Ingress, oracle: Oracle, gate: Path) -> None:
    assert overtaken(ingress, gate) == ["overtakes", "waits"]
    for _ in range(TRIES):
        theirs = overtaken(oracle, gate)
        if oracle.survives(theirs[-1]):
            break
        oracle.revive()
    assert theirs == ["overtakes", "waits"]


@pytest.mark.parametrize("name", [name for name in UNARY_CASES if name not in OTHER_WORDS | {ORACLE_ENDS}])
def test_requests_of_the_unary_contract(name: str, ingress: Ingress, oracle: Oracle) -> None:
    """What is right and wrong about a request is so on a stream too; the stream goes on."""
    requests = [UNARY_CASES[name], request("id_fp32", [1], "after")]
    ours, theirs = stream(ingress, requests), their_stream(oracle, requests)
    assert ours[1] == theirs[1] == ("OK", "")
    assert ours == theirs


def test_errors_as_codes(ingress: Ingress, oracle: Oracle) -> None:
    """With the metadata the first error ends the stream; where tritonserver only does so for the model's errors."""
    requests = [request("id_fp32", [1], "a"), request("repeat", [-1], "b")]
    for answers, end in (stream(ingress, requests, ERROR_CODES), their_stream(oracle, requests, ERROR_CODES)):
        assert end[1] == "negative"
        assert [answer.infer_response.id for answer in answers] in (["a"], [])
    assert stream(ingress, [request("nope", [1])], ERROR_CODES)[1][0] == "NOT_FOUND"


def test_tritonclient_streams(ingress: Ingress) -> None:
    answers: queue.Queue[tuple[triton.InferResult | None, Exception | None]] = queue.Queue()
    client = triton.InferenceServerClient(ingress.address)
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    tensor = triton.InferInput("INPUT0", [3], "FP32")
    tensor.set_data_from_numpy(np.array([1, 2, 3], dtype=np.float32))
    client.async_stream_infer("repeat", [tensor], enable_empty_final_response=True)
    values, final = [], False
    while not final:
        result, error = answers.get(timeout=60)
        assert error is None
        assert result is not None
        final = result.get_response().parameters["triton_final_response"].bool_param
        if not final:
            values.append(float(result.as_numpy("OUTPUT0")[0]))
    client.stop_stream()
    client.close()
    assert values == [1, 2, 3]


class Feeder:
    """Requests that are sent when the test says so."""

    def __init__(self) -> None:
        self._items: queue.Queue[pb.ModelInferRequest | None] = queue.Queue()

    def __iter__(self) -> Iterator[pb.ModelInferRequest]:
        while (item := self._items.get()) is not None:
            yield item

    def send(self, item: pb.ModelInferRequest | None) -> None:
        self._items.put(item)


def test_cancelling_the_stream_cancels_its_requests(ingress: Ingress, gate: Path) -> None:
    """Of ten requests one was begun; the work of the nine that wait behind it is not done."""
    count = 'nv_inference_count{model="gated"'
    before = metric(ingress, count)
    feeder = Feeder()
    call = ingress.stub.ModelStreamInfer(iter(feeder), timeout=120)
    for _ in range(10):
        feeder.send(request("gated", [1]))
    eventually(lambda: in_flight(ingress) == 10, timeout_s=90, what="ten requests to be accepted")
    call.cancel()
    eventually(lambda: gauge(ingress, "mesh_rpc_calls") == 0, timeout_s=90, what="the server to know of it")
    # The connection's event loop counts first and cancels then: what it answers next, it answers after that.
    assert ingress.stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live
    gate.touch()
    eventually(lambda: in_flight(ingress) == 0, timeout_s=90, what="no request runs")
    assert metric(ingress, count) - before <= 1
    feeder.send(None)


def test_many_streams_at_once(ingress: Ingress) -> None:
    """Each stream gets its own answers, in their order."""
    failures: list[object] = []

    def run(number: int) -> None:
        wanted = [float(number * 100 + index) for index in range(50)]
        answers, end = stream(ingress, [request("id_fp32", [value], f"{value}") for value in wanted])
        got = [struct.unpack("<f", answer.infer_response.raw_output_contents[0])[0] for answer in answers]
        if got != wanted or end[0] != "OK":
            failures.append((number, got, end))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("half_closed", [False, True])
def test_draining_answers_what_was_taken(start_ingress: StartIngress, half_closed: bool, gate: Path) -> None:
    server = start_ingress("--model=gated", "--model=id_fp32")
    feeder = Feeder()
    call = server.stub.ModelStreamInfer(iter(feeder), timeout=120)
    for name in ("a", "b", "c"):
        feeder.send(request("gated", [1], name))
    if half_closed:
        feeder.send(None)
    eventually(lambda: in_flight(server) == 3, timeout_s=90, what="three requests run")
    server.drain()
    gate.touch()
    answers = []
    code = "OK"
    try:
        for answer in call:
            answers.append(answer.infer_response.id)
    except grpc.RpcError as error:
        code = error.code().name
    assert answers == ["a", "b", "c"]
    assert code == ("OK" if half_closed else "UNAVAILABLE")
    with pytest.raises(grpc.RpcError) as raised:
        next(server.stub.ModelStreamInfer(iter([request("id_fp32", [1])]), timeout=60))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    feeder.send(None)


@pytest.mark.parametrize("change", [lambda b: b[: len(b) // 2], lambda b: b"\xff" + b, lambda _: b""])
def test_damaged_requests_are_answered(ingress: Ingress, change: Callable[[bytes], bytes]) -> None:
    bad = change(request("id_fp32", [1], "x").SerializeToString())
    good = request("id_fp32", [1], "after").SerializeToString()
    call = ingress.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    answers = [pb.ModelStreamInferResponse.FromString(raw) for raw in call(iter([bad, good]), timeout=60)]
    assert answers[0].error_message
    assert answers[1].infer_response.id == "after"


def test_a_client_that_never_reads_is_bounded(ingress: Ingress) -> None:
    """Its answers pile up to a bound; then the stream ends, or its requests are no longer taken. Others are served."""
    large = infer_request("id_fp32", [("INPUT0", "FP32", (2_500_000,))], (bytes(10_000_000),))
    sent = 0

    def flood() -> Iterator[pb.ModelInferRequest]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield large

    process = psutil.Process(ingress.process.pid)
    before = process.memory_info().rss
    call = ingress.stub.ModelStreamInfer(flood(), timeout=60)
    eventually(lambda: sent > 5, timeout_s=90, what="the flood has begun")
    most = 0
    for _ in range(30):
        wanted = [request("id_fp32", [1], "other")]
        assert stream(ingress, wanted)[1] == ("OK", "")
        most = max(most, process.memory_info().rss - before)
    assert most < 450_000_000
    call.cancel()
    eventually(lambda: in_flight(ingress) == 0, timeout_s=90, what="no request runs")
