"""Streams and sequences through a proxy, to real replicas with Triton."""

from __future__ import annotations

import itertools
import queue
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from proxy_harness import Proxy
from tritonclient.grpc import service_pb2 as pb

from serving.local.ports import free_ports
from tests.integration.ingress.kserve_cases import infer_request, of_sequence
from tests.integration.ingress.kserve_models import write_repository
from tests.integration.ingress.kserve_servers import Ingress, compose_backends, in_flight
from tests.support.waiting import eventually

StartProxy = Callable[..., Proxy]
MODELS = ("id_fp32", "repeat", "decoupled", "seq", "slow", "gated")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def servers(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Ingress]]:
    folder = tmp_path_factory.mktemp("servers")
    backends = compose_backends(folder / "backends")
    flags = [f"--model={name}" for name in MODELS]
    with ExitStack() as stack:
        yield [stack.enter_context(Ingress(repository, backends, folder / f"log{n}", *flags)) for n in (1, 2)]


def request(model: str, values: Sequence[float], request_id: str = "") -> pb.ModelInferRequest:
    raw = struct.pack(f"<{len(values)}f", *values)
    return infer_request(model, [("INPUT0", "FP32", (len(values),))], (raw,), request_id=request_id)


def sequence(identity: int | str, step: int, *, start: bool = False, end: bool = False) -> pb.ModelInferRequest:
    made = infer_request("seq", [("INPUT0", "FP32", (1, 4))], (struct.pack("<4f", *[step] * 4),), request_id=f"{step}")
    return of_sequence(made, identity, start=start, end=end)


def both(start_proxy: StartProxy, servers: list[Ingress], **changes: object) -> Proxy:
    return start_proxy(*(server.address for server in servers), **changes)


def test_answers_come_in_order(servers: list[Ingress], start_proxy: StartProxy) -> None:
    proxy = both(start_proxy, servers)
    sent = [request("id_fp32", [n], f"{n}") for n in range(300)]
    answers = list(proxy.stub.ModelStreamInfer(iter(sent), timeout=100))
    assert [answer.infer_response.id for answer in answers] == [f"{n}" for n in range(300)]
    assert not any(answer.error_message for answer in answers)


def test_many_answers_to_one_request(servers: list[Ingress], start_proxy: StartProxy) -> None:
    proxy = both(start_proxy, servers)
    answers = list(proxy.stub.ModelStreamInfer(iter([request("repeat", list(range(50)))]), timeout=100))
    direct = list(servers[0].stub.ModelStreamInfer(iter([request("repeat", list(range(50)))]), timeout=100))
    assert [a.infer_response.raw_output_contents for a in answers] == [
        a.infer_response.raw_output_contents for a in direct
    ]


def test_an_error_in_the_stream_leaves_it_open(servers: list[Ingress], start_proxy: StartProxy) -> None:
    proxy = both(start_proxy, servers)
    sent = [request("id_fp32", [1]), request("nope", [1]), request("id_fp32", [2])]
    answers = list(proxy.stub.ModelStreamInfer(iter(sent), timeout=100))
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]


def test_an_empty_stream(servers: list[Ingress], start_proxy: StartProxy) -> None:
    proxy = both(start_proxy, servers)
    assert list(proxy.stub.ModelStreamInfer(iter(()), timeout=60)) == []


def test_a_cancelled_stream_is_cancelled_there(
    servers: list[Ingress], start_proxy: StartProxy, repository: Path
) -> None:
    proxy = both(start_proxy, servers)
    gate = repository / "gated" / "gate"
    gate.unlink()
    try:
        call = proxy.stub.ModelStreamInfer(iter([request("gated", [1])]), timeout=100)
        eventually(lambda: sum(in_flight(server) for server in servers) == 1, timeout_s=60, what="it runs")
        call.cancel()
        eventually(lambda: proxy.metric("mesh_proxy_in_flight") == 0, timeout_s=60, what="the proxy let go")
    finally:
        gate.touch()
    eventually(lambda: sum(in_flight(server) for server in servers) == 0, timeout_s=60, what="nothing runs")


def test_a_client_that_never_reads_slows_the_replica(servers: list[Ingress], start_proxy: StartProxy) -> None:
    """Neither the proxy nor the replica collects the answers that it does not take."""
    proxy = both(start_proxy, servers)
    large = infer_request("id_fp32", [("INPUT0", "FP32", (250_000,))], (bytes(1_000_000),))
    sent: queue.SimpleQueue[int] = queue.SimpleQueue()

    def flood() -> Iterator[pb.ModelInferRequest]:
        for number in range(400):
            sent.put(number)
            yield large

    call = proxy.stub.ModelStreamInfer(flood(), timeout=100)
    others = proxy.stub
    eventually(lambda: sent.qsize() > 20, timeout_s=60, what="the flood has begun")
    for _ in range(20):
        answer = others.ModelInfer(request("id_fp32", [1]), timeout=60)
        assert struct.unpack("<f", answer.raw_output_contents[0]) == (1.0,)
    pages = Path(f"/proc/{proxy.process.pid}/statm").read_text().split()
    assert int(pages[1]) * 4096 < 300_000_000
    call.cancel()


@pytest.mark.parametrize("identities", [range(1, 5), [f"user-{n}" for n in range(4)]])
def test_a_sequence_stays_where_it_began(
    identities: Sequence[int | str], servers: list[Ingress], start_proxy: StartProxy
) -> None:
    """Triton refuses a request of a sequence that did not begin there. (The model holds four sequences at a time.)"""
    proxy = both(start_proxy, servers)
    for step in range(4):
        for identity in identities:
            answer = proxy.stub.ModelInfer(sequence(identity, step, start=step == 0, end=step == 3), timeout=60)
            assert answer.id == f"{step}"


def test_two_proxies_agree_where_a_sequence_is(servers: list[Ingress], start_proxy: StartProxy) -> None:
    proxies = itertools.cycle([both(start_proxy, servers), both(start_proxy, servers)])
    for step in range(6):
        for identity in range(100, 103):  # an odd number: each sequence meets both
            proxy = next(proxies)
            proxy.stub.ModelInfer(sequence(identity, step, start=step == 0, end=step == 5), timeout=60)


def test_a_hash_key_keeps_a_user_on_one_replica(servers: list[Ingress], start_proxy: StartProxy) -> None:
    proxy = both(start_proxy, servers, policy={"choice": "consistent_hash", "hash_key": "x-user"})

    def served() -> list[int]:
        counts = []
        for server in servers:
            found = server.stub.ModelStatistics(pb.ModelStatisticsRequest(name="id_fp32"), timeout=60)
            counts.append(found.model_stats[0].inference_count)
        return counts

    homes = set()
    for user in range(20):
        before = served()
        for _ in range(5):
            proxy.stub.ModelInfer(request("id_fp32", [1]), timeout=60, metadata=[("x-user", f"{user}")])
        gained = [after - earlier for after, earlier in zip(served(), before, strict=True)]
        assert sorted(gained) == [0, 5]
        homes.add(gained.index(5))
    assert homes == {0, 1}


def test_the_stream_of_a_replica_that_dies_ends_with_its_name(
    repository: Path, tmp_path: Path, start_proxy: StartProxy
) -> None:
    backends = compose_backends(tmp_path / "backends")
    server = Ingress(repository, backends, tmp_path / "log", "--model=id_fp32")
    try:
        proxy = start_proxy(server.address)
        feed: queue.Queue[pb.ModelInferRequest | None] = queue.Queue()
        call = proxy.stub.ModelStreamInfer(iter(feed.get, None), timeout=100)
        feed.put(request("id_fp32", [1]))
        assert not next(call).error_message
        server.process.kill()
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.address in caught.value.details()
        feed.put(None)
    finally:
        server.stop()


def test_health_and_reflection(servers: list[Ingress], start_proxy: StartProxy) -> None:
    proxy = both(start_proxy, servers)
    assert proxy.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60) == b"\x08\x01"
    index = proxy.stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=60)
    assert {model.name for model in index.models} >= set(MODELS)


def test_a_stream_waits_for_the_first_replica(repository: Path, tmp_path: Path, start_proxy: StartProxy) -> None:
    """Nobody listens yet: it is held, and opened as soon as somebody does."""
    (port,) = free_ports(1)
    proxy = start_proxy(f"127.0.0.1:{port}", policy={"outliers": {"base_s": 0.2, "max_s": 1.0}})
    call = proxy.stub.ModelStreamInfer(iter([request("id_fp32", [n], f"{n}") for n in range(5)]), timeout=100)
    eventually(lambda: proxy.metric("mesh_proxy_attempts_total") >= 2, timeout_s=60, what="it was tried again")
    backends = compose_backends(tmp_path / "backends")
    with Ingress(repository, backends, tmp_path / "log", "--model=id_fp32", f"--port={port}"):
        assert [answer.infer_response.id for answer in call] == [f"{n}" for n in range(5)]
    assert proxy.metric("mesh_proxy_attempts_total") < 100, "it paused in between"


def test_the_place_of_a_stream_whose_replica_hangs_is_free(
    repository: Path, tmp_path: Path, start_proxy: StartProxy
) -> None:
    backends = compose_backends(tmp_path / "backends")
    quick = {"suspect_after_s": 0.3, "probe_timeout_s": 0.3, "max_in_flight_per_endpoint": 1}
    with Ingress(repository, backends, tmp_path / "log", "--model=id_fp32") as server:
        proxy = start_proxy(server.address, policy=quick)
        feed: queue.Queue[pb.ModelInferRequest | None] = queue.Queue()
        stream = proxy.stub.ModelStreamInfer(iter(feed.get, None), timeout=100)
        feed.put(request("id_fp32", [1]))
        assert not next(stream).error_message
        waits = proxy.stub.ModelInfer.future(request("id_fp32", [2]), timeout=100)
        eventually(lambda: proxy.metric("mesh_proxy_waiting") == 1, timeout_s=60, what="a request waits")
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert struct.unpack("<f", waits.result().raw_output_contents[0]) == (2.0,)
        feed.put(None)
