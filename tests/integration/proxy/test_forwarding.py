"""What goes through a proxy arrives as it was sent, and comes back as it was answered."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from proxy_harness import Proxy, infer, who
from sdk_harness import Replica
from tritonclient.grpc import service_pb2 as pb

from tests.support.waiting import eventually

Replicas = Callable[..., list[Replica]]
StartProxy = Callable[..., Proxy]


def test_a_request_and_its_answer(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    proxy = start_proxy(one.address)
    request = infer(request_id="r7")
    request.raw_input_contents[0] = bytes(range(16))
    request.inputs[0].parameters["any"].string_param = "thing"
    answer = proxy.stub.ModelInfer(request, timeout=60, metadata=[("traceparent", f"00-{'1' * 32}-{'2' * 16}-01")])
    assert who(answer) == "one"
    assert (answer.id, answer.raw_output_contents[0]) == ("r7", bytes(range(16)))
    assert answer.parameters["traceparent"].string_param == f"00-{'1' * 32}-{'2' * 16}-01"


@pytest.mark.parametrize("size", [0, 1, 1 << 20, 40 << 20])
def test_sizes(size: int, replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    proxy = start_proxy(one.address)
    request = infer()
    request.raw_input_contents[0] = bytes([7]) * size
    assert proxy.stub.ModelInfer(request, timeout=100).raw_output_contents[0] == bytes([7]) * size


def test_a_deadline_travels(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    proxy = start_proxy(one.address)
    left = proxy.stub.ModelInfer(infer(), timeout=50).parameters["left_s"].double_param
    assert 0 < left <= 51, "clients of gRPC round up"
    assert proxy.stub.ModelInfer(infer()).parameters["left_s"].double_param == -1, "none was given"
    one.behave("hang")
    with pytest.raises(grpc.RpcError) as caught:
        proxy.stub.ModelInfer(infer(), timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: one.counts()["running"] == 0, timeout_s=60, what="the replica's call ended")


def test_a_cancelled_call_is_cancelled_there(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    one.behave("hang")
    proxy = start_proxy(one.address)
    call = proxy.stub.ModelInfer.future(infer(), timeout=100)
    eventually(lambda: one.counts()["running"] == 1, timeout_s=60, what="it runs")
    call.cancel()
    eventually(lambda: one.counts()["cancelled"] == 1, timeout_s=60, what="it is cancelled")
    eventually(lambda: proxy.metric("mesh_proxy_in_flight") == 0, timeout_s=60, what="nothing runs")


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "FAILED_PRECONDITION", "UNIMPLEMENTED"])
def test_statuses_come_back(code: str, replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    one.behave("error", code=code, details="these words")
    proxy = start_proxy(one.address)
    with pytest.raises(grpc.RpcError) as caught:
        proxy.stub.ModelInfer(infer(), timeout=60)
    assert caught.value.code().name == code
    assert caught.value.details().startswith("these words")
    assert one.counts()["infer"] == 1


def test_bytes_that_are_no_request(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    proxy = start_proxy(one.address)
    raw = proxy.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    for garbage in (b"\xff\xff\xff", b"\x0a\x7f", b"\x22\x03\x12\x7fx"):
        with pytest.raises(grpc.RpcError) as caught:
            raw(garbage, timeout=60)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "ModelInferRequest" in caught.value.details()


def test_what_is_of_one_process_is_refused(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    proxy = start_proxy(one.address)
    for method, request in (
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="digits")),
        ("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name="x")),
        ("LogSettings", pb.LogSettingsRequest()),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            getattr(proxy.stub, method)(request, timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert method in caught.value.details()


def test_what_it_answers_itself_and_passes_on(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    proxy = start_proxy(one.address)
    assert proxy.stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live
    eventually(lambda: proxy.stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready, timeout_s=60, what="ready")
    assert proxy.stub.ModelMetadata(pb.ModelMetadataRequest(name="digits"), timeout=60).platform == "test"


def test_nobody_there(start_proxy: StartProxy, replicas: Replicas) -> None:
    """A connection that is refused is tried again until the deadline; the message says what was wrong."""
    (one,) = replicas("one")
    address = one.address
    one.kill()
    proxy = start_proxy(address)
    with pytest.raises(grpc.RpcError) as caught:
        proxy.stub.ModelInfer(infer(), timeout=1.0)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_drain_finishes_what_runs(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    one.behave("hold")
    proxy = start_proxy(one.address)
    running = [proxy.stub.ModelInfer.future(infer(), timeout=100) for _ in range(5)]
    eventually(lambda: one.counts()["running"] == 5, timeout_s=60, what="they run")
    proxy.terminate()
    eventually(lambda: _refuses(proxy.address), timeout_s=60, what="it takes no new connections")
    assert proxy.process.poll() is None
    one.behave()
    assert [who(call.result()) for call in running] == ["one"] * 5
    assert proxy.process.wait(60) == 0


def _refuses(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=30).close()
    except ConnectionRefusedError:
        return True
    return False


def test_many_callers(replicas: Replicas, start_proxy: StartProxy) -> None:
    both = replicas("one", "two")
    proxy = start_proxy(*(replica.address for replica in both))
    seen: dict[str, int] = {}
    wrong: list[Any] = []
    lock = threading.Lock()

    def ask(number: int) -> None:
        for index in range(50):
            identity = f"{number}-{index}"
            try:
                answer = proxy.stub.ModelInfer(infer(request_id=identity), timeout=100)
            except grpc.RpcError as error:
                wrong.append(error)
                return
            with lock:
                seen[who(answer)] = seen.get(who(answer), 0) + 1
                if answer.id != identity:
                    wrong.append(answer.id)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert set(seen) == {"one", "two"}
    assert sum(seen.values()) == 800
    eventually(lambda: proxy.metric("mesh_proxy_requests_total") == 800, timeout_s=60, what="all are counted")


def test_wrong_configurations_are_named(start_proxy: StartProxy) -> None:
    for changes, word in (
        ({"policy": {"choice": "best"}}, "choice"),
        ({"listenPort": 70000}, "listenPort"),
        ({"id": ""}, "'id'"),
    ):
        with pytest.raises(AssertionError, match=word):
            start_proxy("127.0.0.1:1", **changes)
    with pytest.raises(AssertionError, match="etcd"):
        start_proxy()
