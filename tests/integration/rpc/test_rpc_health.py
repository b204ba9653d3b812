"""grpc.health.v1 by hand-made messages: one field each."""

from __future__ import annotations

import grpc
import pytest

from tests.integration.rpc.conftest import StartServer
from tests.integration.rpc.rpc_server import EchoServer

TIMEOUT_S = 60.0
SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"


def request(service: str) -> bytes:
    return b"\x0a" + bytes([len(service)]) + service.encode() if service else b""


def check(channel: grpc.Channel, service: str) -> bytes:
    return channel.unary_unary("/grpc.health.v1.Health/Check")(request(service), timeout=TIMEOUT_S)


def watch(channel: grpc.Channel, service: str) -> grpc.CallIterator[bytes]:
    return channel.unary_stream("/grpc.health.v1.Health/Watch")(request(service), timeout=TIMEOUT_S)


def test_check(server: EchoServer, channel: grpc.Channel) -> None:
    assert check(channel, "") == SERVING
    server.command("health some.Service NOT_SERVING")
    assert check(channel, "some.Service") == NOT_SERVING
    server.command("health some.Service SERVING")
    assert check(channel, "some.Service") == SERVING
    server.command("health some.Service REMOVED")
    with pytest.raises(grpc.RpcError) as raised:
        check(channel, "some.Service")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert "'some.Service'" in (raised.value.details() or "")


def test_list(server: EchoServer, channel: grpc.Channel) -> None:
    server.command("health listed NOT_SERVING")
    answer = channel.unary_unary("/grpc.health.v1.Health/List")(b"", timeout=TIMEOUT_S)
    assert b"\x0a\x06listed\x12\x02" + NOT_SERVING in answer
    server.command("health listed REMOVED")


@pytest.mark.parametrize("name", ["Check", "Watch"])
def test_rubbish_is_refused(channel: grpc.Channel, name: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        list(channel.unary_stream(f"/grpc.health.v1.Health/{name}")(b"\x0a\xff\xff\xff\xff", timeout=TIMEOUT_S))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_watch_sees_every_state(server: EchoServer, channel: grpc.Channel) -> None:
    states = watch(channel, "watched")
    assert next(states) == SERVICE_UNKNOWN
    for status, seen in (("SERVING", SERVING), ("NOT_SERVING", NOT_SERVING), ("REMOVED", SERVICE_UNKNOWN)):
        server.command(f"health watched {status}")
        assert next(states) == seen
    states.cancel()


def test_watch_tells_only_changes(server: EchoServer, channel: grpc.Channel) -> None:
    states = watch(channel, "steady")
    assert next(states) == SERVICE_UNKNOWN
    for status in ("SERVING", "SERVING", "SERVING", "NOT_SERVING"):
        server.command(f"health steady {status}")
        if status == "SERVING":
            continue
    assert next(states) in (SERVING, NOT_SERVING)  # a slow watcher may skip to the newest
    states.cancel()
    server.command("health steady REMOVED")


def test_drain_ends_watches_with_not_serving(start_server: StartServer) -> None:
    server = start_server(event_loops=2)
    with server.channel() as first, server.channel() as second:
        watches = [watch(opened, "") for opened in (first, second) for _ in range(5)]
        assert [next(states) for states in watches] == [SERVING] * 10
        assert server.command("drain 60000") == {"drained": True}
        for states in watches:
            assert next(states) == NOT_SERVING
            with pytest.raises(grpc.RpcError) as raised:
                next(states)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
