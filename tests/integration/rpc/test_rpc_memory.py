"""What a server keeps for its clients is counted and bounded, and work for one does not stop the others."""

from __future__ import annotations

import gzip
import struct
import time

import grpc
import pytest

from tests.integration.rpc.conftest import StartServer
from tests.integration.rpc.raw_http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    TIMEOUT_S,
    WINDOW_UPDATE,
    RawPeer,
    frame,
    literal,
    message,
    request_headers,
)
from tests.integration.rpc.rpc_server import EchoServer, echo, method, wait_logged, wait_until
from tests.integration.rpc.test_rpc_hostile import PatientPeer

MEBIBYTE = 1024 * 1024


def open_windows(peer: RawPeer) -> None:
    peer.send(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0x7FFFFFFF)) + frame(SETTINGS, ACK, 0))
    peer.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFFFFFF - 65535)))


def send_request(
    peer: RawPeer, stream: int, body: bytes, name: str = "Unary", *, end: bool = True, **changes: str
) -> None:
    """In frames that every server takes. The body must fit into the stream's window of 256 KiB."""
    headers = request_headers(f"/mesh.test.Echo/{name}", **changes)
    peer.request(stream, headers, *(body[at : at + 16384] for at in range(0, len(body), 16384)), end=end)


def calls_while_open(server: EchoServer, channel: grpc.Channel) -> int:
    """How many calls are answered while others are open."""
    before = server.stats()["calls_total"]
    wait_until(lambda: server.stats()["calls_open"] > 0 or server.stats()["calls_total"] > before, "calls have come")
    served = 0
    while server.stats()["calls_open"] > 0:
        assert echo(channel)(b"x", timeout=TIMEOUT_S) == b"x"
        served += 1
    return served


def packed(payload: bytes) -> bytes:
    return message(gzip.compress(payload, 6), flag=1)


def test_compressed_messages_have_a_limit_of_their_own(start_server: StartServer) -> None:
    server = start_server(max_decompressed_bytes=1_000_000)
    with server.channel() as own:
        with pytest.raises(grpc.RpcError) as raised:
            echo(own)(bytes(50_000_000), timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1000000 bytes after decompression" in (raised.value.details() or "")
        assert len(echo(own)(bytes(2_000_000), timeout=TIMEOUT_S)) == 2_000_000
        assert len(echo(own)(bytes(1_000_000), timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)) == 1_000_000


def test_what_comes_out_of_a_compressed_message_is_budgeted(start_server: StartServer) -> None:
    server = start_server(max_receiving_bytes=20_000_000)
    with RawPeer(server.port, preface=False) as peer, server.channel() as own:
        open_windows(peer)
        send_request(peer, 1, message(bytes(200_000), declared=15_000_000), end=False)
        wait_until(lambda: server.stats()["bytes_receiving"] >= 200_000, "the first message is half received")
        for number in range(3):  # three more, in the hands of no handler yet
            send_request(peer, 2 * number + 3, message(bytes(200_000), declared=15_000_000), end=False)
        wait_until(lambda: server.stats()["bytes_receiving"] >= 800_000, "four messages are half received")
        with pytest.raises(grpc.RpcError) as raised:
            echo(own)(bytes(19_500_000), timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "of 20000000 bytes; try again later" in (raised.value.details() or "")
    wait_until(lambda: server.stats()["bytes_receiving"] == 0, "everything is given back")


def test_others_are_served_while_large_messages_are_decompressed(start_server: StartServer) -> None:
    """On one loop, which would otherwise be busy with one of them after the other."""
    server = start_server(event_loops=1)
    body = packed(bytes(60 * MEBIBYTE))
    with RawPeer(server.port, preface=False) as peer, server.channel() as own:
        assert echo(own)(b"warm", timeout=TIMEOUT_S) == b"warm"
        open_windows(peer)
        for number in range(5):
            send_request(peer, 2 * number + 1, body, "Collect", grpc_encoding="gzip")
        served = calls_while_open(server, own)
        assert served >= 30
        answers: list[bytes] = []
        while len(answers) < 5:
            received = peer.next_frame()
            assert received is not None
            if received.kind == DATA:
                answers.append(received.payload)
        assert answers == [message(b"%d" % (60 * MEBIBYTE))] * 5
    wait_until(lambda: server.stats()["bytes_receiving"] == 0, "everything is given back")


def test_many_small_compressed_messages_do_not_stop_the_others(start_server: StartServer) -> None:
    server = start_server(event_loops=1)
    body = packed(bytes(MEBIBYTE)) * 200
    with RawPeer(server.port, preface=False) as peer, server.channel() as own:
        assert echo(own)(b"warm", timeout=TIMEOUT_S) == b"warm"
        open_windows(peer)
        send_request(peer, 1, body, "Collect", grpc_encoding="gzip")
        served = calls_while_open(server, own)
        assert served >= 20
        assert peer.answer(1)["data"][5:] == str(200 * MEBIBYTE)


@pytest.mark.parametrize("name", ["Bidi", "BidiThreaded"])
def test_compressed_and_plain_messages_stay_in_order(start_server: StartServer, name: str) -> None:
    server = start_server(event_loops=1)
    expected = []
    bodies = []
    for number in range(30):
        payload = b"%02d" % number * (MEBIBYTE if number % 10 == 0 else number)
        expected.append(payload)
        bodies.append(packed(payload) if number % 2 == 0 else message(payload))
    with server.channel() as own, RawPeer(server.port, preface=False) as peer:
        assert echo(own)(b"warm", timeout=TIMEOUT_S) == b"warm"
        open_windows(peer)
        send_request(peer, 1, b"".join(bodies), name, grpc_encoding="gzip")
        answer = peer.answer(1)
    assert answer["grpc-status"] == "0"
    data = answer["data"].encode("latin1")
    for payload in expected:
        assert data[:5] == message(payload)[:5]
        assert data[5 : 5 + len(payload)] == payload
        data = data[5 + len(payload) :]
    assert data == b""


def test_cancelled_while_it_is_decompressed(start_server: StartServer) -> None:
    server = start_server(event_loops=1)
    body = packed(bytes(100 * MEBIBYTE))
    for _ in range(10):
        with RawPeer(server.port, preface=False) as peer:
            open_windows(peer)
            send_request(peer, 1, body, grpc_encoding="gzip")
            send_request(peer, 3, body, grpc_encoding="gzip", grpc_timeout="50m")
            # Whoever looks late finds the first one unpacked, and its answer, which nobody reads.
            wait_until(lambda: any(server.stats()[kind] > 0 for kind in ("bytes_receiving", "bytes_unsent")), "begun")
    wait_until(lambda: server.stats()["calls_open"] == 0, "the calls are over")
    # The thread that unpacks lets go of its message only when it next looks, which may be after its call is over.
    wait_until(lambda: server.stats()["bytes_receiving"] == 0, "everything is given back")


@pytest.mark.parametrize("body", [message(b"x" * 10_000), message(b"") * 1000], ids=["small", "empty"])
def test_messages_that_no_handler_takes_are_bounded(start_server: StartServer, body: bytes) -> None:
    server = start_server(max_receiving_bytes=500_000)
    with RawPeer(server.port, preface=False) as peer:
        open_windows(peer)
        statuses = []
        for number in range(100):
            peer.request(2 * number + 1, request_headers("/mesh.test.Echo/Deaf"), body, end=False)
        while len(statuses) < 40:
            received = peer.next_frame()
            assert received is not None
            if received.kind == HEADERS:
                statuses.append(received.stream)
        assert server.stats()["bytes_receiving"] <= 500_000
        # What the server has not read when the connection ends never becomes a call.
        wait_until(lambda: server.stats()["calls_total"] == 100, "all calls have come")
        assert server.stats()["bytes_receiving"] <= 500_000
    wait_until(lambda: server.stats()["bytes_receiving"] == 0, "everything is given back")
    wait_until(lambda: server.command("cancelled")["cancelled"] == 100, "all handlers saw their calls end")


def test_a_request_without_its_end_is_given_up(start_server: StartServer) -> None:
    """Its message is complete, but its client never says that it was the only one."""
    server = start_server(idle_message_timeout_ms=300)
    with RawPeer(server.port) as peer:
        peer.request(1, request_headers(), message(b"x"), end=False)
        assert peer.answer(1)["grpc-status"] == "1"


def clog(peer: RawPeer, requests: int) -> None:
    """Requests of one MiB each, for whose answers the windows are closed."""
    peer.send(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
    for number in range(requests):
        head = literal(request_headers("/mesh.test.Echo/Count"))
        peer.send(frame(HEADERS, END_HEADERS, 2 * number + 1, head))
        peer.send(frame(DATA, END_STREAM, 2 * number + 1, message(b"1 %d" % MEBIBYTE)))


def test_a_clogged_connection_without_progress_is_closed(start_server: StartServer) -> None:
    """Its client reads its socket and answers pings, but takes no answers."""
    server = start_server(max_pending_bytes=2 * MEBIBYTE, clogged_timeout_ms=500)
    with RawPeer(server.port, preface=False) as peer:
        clog(peer, 3)
        peer.goaway()
    wait_until(lambda: server.stats()["connections_open"] == 0, "it is closed")
    wait_logged(server, "its client takes no answers")
    wait_until(lambda: server.stats()["bytes_unsent"] == 0, "everything is given back")


def test_a_slow_but_moving_connection_is_kept(start_server: StartServer) -> None:
    server = start_server(max_pending_bytes=2 * MEBIBYTE, clogged_timeout_ms=4000)
    kept: list[bool] = []
    while len(kept) < 3 and not any(kept):  # a machine that stops for seconds stops what moves, but not each time
        with RawPeer(server.port, preface=False) as peer:
            clog(peer, 4)
            wait_until(lambda: server.stats()["bytes_unsent"] > 3 * MEBIBYTE, "it is clogged")
            for _ in range(50):
                peer.try_send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1000)))
                time.sleep(0.1)
            kept.append(server.stats()["connections_open"] == 1)
        wait_until(lambda: server.stats()["bytes_unsent"] == 0, "everything is given back")
    assert any(kept)


def test_answers_that_nobody_takes_are_bounded_over_all_connections(start_server: StartServer) -> None:
    server = start_server(max_unsent_bytes=4 * MEBIBYTE)
    peers = [RawPeer(server.port, preface=False) for _ in range(4)]
    for raw in peers:
        peer = PatientPeer(raw)
        assert peer.read_until(lambda peer=peer: peer.allowed[0] >= 16 * MEBIBYTE)  # type: ignore[misc]
        raw.socket.settimeout(1.0)
        assert not peer.send_until(30), "the server took everything"
    assert server.stats()["bytes_unsent"] < 10 * MEBIBYTE
    for raw in peers:
        raw.socket.close()
    wait_until(lambda: server.stats()["bytes_unsent"] == 0, "everything is given back")
    with server.channel() as own:
        answers = own.unary_stream(method("Count"))(b"100 100000", timeout=TIMEOUT_S)
        assert sum(len(answer) for answer in answers) == 10_000_000
