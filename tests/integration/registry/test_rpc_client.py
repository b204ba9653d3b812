"""The C++ gRPC client against real grpcio servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from serving.local.ports import free_ports
from tests.integration.registry.grpc_servers import ECHO, FLOOD_BYTES, GrpcServer, tls_credentials
from tests.integration.registry.probes import ClientProbe
from tests.support.certificates import Authority
from tests.support.waiting import eventually

StartClient = Callable[..., ClientProbe]


@pytest.fixture
def start_client() -> Iterator[StartClient]:
    """Starts clients; each must end cleanly, without an event too many."""
    started: list[ClientProbe] = []

    def start(address: str, **options: object) -> ClientProbe:
        started.append(ClientProbe(address, **options))
        return started[-1]

    yield start
    assert [probe.end() for probe in started] == [0] * len(started)


@pytest.fixture
def server() -> Iterator[GrpcServer]:
    with GrpcServer() as running:
        yield running


@pytest.fixture(params=[False, True], ids=["own-loop", "shared-loop"])
def client(server: GrpcServer, start_client: StartClient, request: pytest.FixtureRequest) -> ClientProbe:
    return start_client(server.address, shared_loop=request.param)


@pytest.mark.parametrize("size", [0, 1, 5, 1000, 4090])
def test_unary_messages_come_back(client: ClientProbe, size: int) -> None:
    request = os.urandom(size)
    events = client.unary(ECHO + "Unary", request)
    assert (events.code, events.messages) == ("OK", [request])


def test_large_messages_in_both_directions(client: ClientProbe) -> None:
    number = client.begin_unary(ECHO + "Unary", size=64 << 20)
    events = client.finish(number)
    assert (events.code, events.sizes) == ("OK", [64 << 20])


def test_many_calls_at_once(client: ClientProbe) -> None:
    # grpcio cancels at random what waits beyond a thousand calls.
    numbers = [client.begin_unary(ECHO + "Unary", str(index).encode()) for index in range(900)]
    answers = [client.finish(number) for number in numbers]
    assert [answer.messages for answer in answers] == [[str(index).encode()] for index in range(900)]


def test_more_calls_than_the_server_takes_at_once(start_client: StartClient) -> None:
    with GrpcServer(options=(("grpc.max_concurrent_streams", 2),)) as server:
        client = start_client(server.address)
        numbers = [client.begin_unary(ECHO + "Unary", str(index).encode()) for index in range(100)]
        assert {client.finish(number).code for number in numbers} == {"OK"}


def test_status_message_and_trailers(client: ClientProbe) -> None:
    number = client.stream(ECHO + "Fail")
    client.send(number, "wrong: 100 % ü".encode())
    client.half_close(number)
    done = client.finish(number).done
    assert done is not None
    assert (done["code"], done["message"]) == ("FAILED_PRECONDITION", "wrong: 100 % ü")
    assert ["why", b"asked".hex()] in done["trailers"]
    assert ["why-bin", b"\x00\xff".hex()] in done["trailers"]


def test_an_unknown_method(client: ClientProbe) -> None:
    assert client.unary(ECHO + "Nothing").code == "UNIMPLEMENTED"


def test_metadata_that_cannot_be_sent(client: ClientProbe) -> None:
    assert client.unary(ECHO + "Unary", metadata={"Upper": b"x".hex()}).code == "INVALID_ARGUMENT"
    assert client.unary(ECHO + "Unary", metadata={"fine-bin": "00ff", "text": b"t".hex()}).code == "OK"


def test_streams_of_every_kind(client: ClientProbe) -> None:
    summed = client.stream(ECHO + "Sum")
    for part in (b"a", b"", b"b"):
        client.send(summed, part)
    client.half_close(summed)
    counted = client.stream(ECHO + "Count")
    client.send(counted, b"500")
    client.half_close(counted)
    assert client.finish(summed).messages == [b"a++b"]
    assert client.finish(counted).messages == [str(number).encode() for number in range(500)]


def test_a_conversation(client: ClientProbe) -> None:
    chat = client.stream(ECHO + "Chat")
    for word in (b"one", b"two", b"three"):
        client.send(chat, word)
        assert client.next_message(chat) == word.upper()
    client.half_close(chat)
    assert client.finish(chat).code == "OK"


def test_a_paused_call_stops_its_server_and_nobody_else(client: ClientProbe) -> None:
    window = 8 << 20
    flood = client.stream(ECHO + "Flood")
    client.pause(flood)
    client.send(flood, b"1000")
    client.half_close(flood)
    received = 0
    while received + FLOOD_BYTES + len(b"prefix") <= window:
        event = client.next_event(flood)
        assert event["event"] == "message"
        received += int(event["size"])
    # These would let the flood through if it could go on: it has 900 messages left, and the windows of both are empty.
    assert client.unary(ECHO + "Big", str(4 * window).encode()).sizes == [4 * window]
    assert client.waiting_events(flood) <= 1, "nothing more than the rest of the window"
    client.resume(flood)
    rest = client.finish(flood)
    assert rest.code == "OK"
    assert received + sum(rest.sizes) == 1000 * FLOOD_BYTES


def test_a_deadline_is_sent_and_kept(server: GrpcServer, client: ClientProbe) -> None:
    assert client.unary(ECHO + "Unary", b"x", timeout_ms=50_000).code == "OK"
    remaining = server.service.deadlines[0]
    assert remaining is not None
    assert 0 < remaining <= 50.1
    assert client.unary(ECHO + "Sleep", timeout_ms=3000).code == "DEADLINE_EXCEEDED"
    assert server.service.cancelled.wait(60), "the server was not told"


def test_a_cancel_reaches_the_server(server: GrpcServer, client: ClientProbe) -> None:
    mute = client.stream(ECHO + "Mute")
    client.send(mute, b"x")
    # The answer to another call shows that the first one has arrived.
    assert client.unary(ECHO + "Unary", b"x").code == "OK"
    client.cancel(mute)
    assert client.finish(mute).code == "CANCELLED"
    assert server.service.cancelled.wait(60)


def test_closing_the_channel_ends_its_calls(client: ClientProbe) -> None:
    mute = client.stream(ECHO + "Mute")
    client.send(mute, b"x")
    client.close_channel()
    assert client.finish(mute).code == "CANCELLED"
    assert client.unary(ECHO + "Unary", b"x").code == "CANCELLED"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_answers(start_client: StartClient, compression: grpc.Compression) -> None:
    with GrpcServer(compression=compression) as server:
        events = start_client(server.address).unary(ECHO + "Unary", b"z" * 4000)
        assert (events.code, events.messages) == ("OK", [b"z" * 4000])


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_answers_larger_than_the_limit(start_client: StartClient, compression: grpc.Compression) -> None:
    with GrpcServer(compression=compression) as server:
        client = start_client(server.address, max_message_bytes=100_000)
        events = client.unary(ECHO + "Big", b"100001")
        assert events.code == "RESOURCE_EXHAUSTED"
        assert "100000" in events.message
        assert client.unary(ECHO + "Big", b"100000").code == "OK"


def test_no_server_is_unavailable_at_once_or_waited_for(start_client: StartClient) -> None:
    (port,) = free_ports(1)
    client = start_client(f"127.0.0.1:{port}", min_backoff_ms=20)
    failed = client.unary(ECHO + "Unary")
    assert failed.code == "UNAVAILABLE"
    assert failed.done is not None
    assert failed.done["not_processed"]
    assert f"127.0.0.1:{port}" in failed.message
    late = client.unary(ECHO + "Unary", wait_for_ready=True, timeout_ms=300)
    assert late.code == "DEADLINE_EXCEEDED"
    assert "refused" in late.message
    waiting = client.begin_unary(ECHO + "Unary", b"x", wait_for_ready=True)
    with GrpcServer(port=port):
        assert client.finish(waiting).code == "OK"


def test_a_server_that_restarts(start_client: StartClient) -> None:
    (port,) = free_ports(1)
    with GrpcServer(port=port):
        client = start_client(f"127.0.0.1:{port}", min_backoff_ms=20)
        assert client.unary(ECHO + "Unary", b"1").code == "OK"
    with successor(port):
        assert client.unary(ECHO + "Unary", b"2", wait_for_ready=True, timeout_ms=60_000).messages == [b"2"]


def successor(port: int) -> GrpcServer:
    """A server on the port of one that stops: it lets go of the port a moment after it was asked to."""

    def bound() -> GrpcServer | None:
        try:
            return GrpcServer(port=port)
        except RuntimeError:  # grpcio's only word for a port that is in use
            return None

    found = eventually(bound, timeout_s=60, what=f"port {port}")
    assert found is not None
    return found


def test_a_graceful_stop_lets_running_calls_finish(start_client: StartClient) -> None:
    (port,) = free_ports(1)
    with GrpcServer(port=port) as old:
        client = start_client(f"127.0.0.1:{port}", min_backoff_ms=20)
        chat = client.stream(ECHO + "Chat")
        client.send(chat, b"one")
        assert client.next_message(chat) == b"ONE"
        stopped = old.server.stop(60)  # GOAWAY, then waits for the conversation
        with successor(port):
            # New calls go to the new server through a new connection, while the old one is still used. The old server
            # cancels what reached it before its client had read that it goes.
            new = lambda: client.unary(ECHO + "Unary", b"x", wait_for_ready=True, timeout_ms=60_000).code  # noqa: E731
            assert eventually(lambda: (code := new()) != "CANCELLED" and code, timeout_s=60, what="an answer") == "OK"
            client.send(chat, b"two")
            assert client.next_message(chat) == b"TWO"
            client.half_close(chat)
            assert client.finish(chat).code == "OK"
        stopped.wait()


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:http", ":80", "::1:80", "a/b:1"]
)
def test_an_address_that_is_none(start_client: StartClient, address: str) -> None:
    events = start_client(address).unary(ECHO + "Unary")
    assert events.code == "INVALID_ARGUMENT"
    assert "host:port" in events.message


def test_names_are_resolved(server: GrpcServer, start_client: StartClient) -> None:
    assert start_client(f"localhost:{server.port}").unary(ECHO + "Unary", b"x").code == "OK"
    unknown = start_client("no-such-host.invalid:80").unary(ECHO + "Unary", timeout_ms=50_000)
    assert unknown.code == "UNAVAILABLE"
    assert "no-such-host.invalid" in unknown.message


def test_tls_checks_the_servers_name_and_shows_a_certificate(start_client: StartClient, tmp_path: Path) -> None:
    ours, others = Authority.make(tmp_path / "ours"), Authority.make(tmp_path / "others")
    own, good = ours.issue("server"), ours.issue("client")
    with GrpcServer(credentials=tls_credentials(own.cert_file, own.key_file, own.ca_file)) as server:

        def attempt(tls: object = good, **options: object) -> str:
            files = {"ca": tls.ca_file, "cert": tls.cert_file, "private_key": tls.key_file}  # type: ignore[attr-defined]
            probe = start_client(server.address, **files, **options)
            events = probe.unary(ECHO + "Unary", b"x", timeout_ms=30_000)
            return f"{events.code} {events.message}"

        assert attempt() == "OK "
        assert "UNAVAILABLE" in attempt(server_name="another.example")
        assert "verify failed" in attempt(replace(good, ca_file=str(tmp_path / "others" / "ca.pem")))
        assert "UNAVAILABLE" in attempt(replace(others.issue("foreign"), ca_file=good.ca_file))
        assert "/no/such.key" in attempt(replace(good, key_file="/no/such.key"))
        plain = start_client(server.address).unary(ECHO + "Unary", timeout_ms=30_000)
        assert plain.code == "UNAVAILABLE"
