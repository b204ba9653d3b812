"""Start, drain, stop, keepalive and limits of connections."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator

import grpc
import pytest

from tests.integration.rpc.conftest import StartServer
from tests.integration.rpc.rpc_server import echo, method, server_binary, wait_logged, wait_until

TIMEOUT_S = 60.0


def test_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run([str(server_binary()), f"--port={port}"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "another process uses the port" in ended.stderr


def test_drain_lets_running_calls_finish(start_server: StartServer) -> None:
    server = start_server(event_loops=2)
    release = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"1"
        release.wait(TIMEOUT_S)
        yield b"2"

    with server.channel() as own:
        call = own.stream_stream(method("Bidi"))(requests(), timeout=TIMEOUT_S)
        assert next(call) == b"1"
        assert server.command("drain 10") == {"drained": False}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=10)
        release.set()
        assert list(call) == [b"2"]
        assert server.command("drain 60000") == {"drained": True}
        wait_until(lambda: server.stats()["connections_open"] == 0, "the connection is closed")


def test_drain_fails_no_call_of_a_busy_client(start_server: StartServer) -> None:
    """What the server began is answered, though the client still sends; the rest fails cleanly as UNAVAILABLE."""
    server = start_server(event_loops=2)
    failures: list[grpc.StatusCode] = []
    answered = 0
    with server.channel(("grpc.enable_retries", 0)) as own:
        assert echo(own)(b"warm", timeout=TIMEOUT_S) == b"warm"
        begun = server.stats()["calls_total"]
        calls = [echo(own, "Threaded").future(b"x", timeout=TIMEOUT_S) for _ in range(500)]
        wait_until(lambda: server.stats()["calls_total"] >= begun + 100, "the server has begun a hundred calls")
        server.send("drain 60000")
        calls += [echo(own, "Threaded").future(b"x", timeout=TIMEOUT_S) for _ in range(500)]
        for call in calls:
            try:
                answered += call.result() == b"x"
            except grpc.RpcError as error:
                failures.append(error.code())
    assert server._answer() == {"drained": True}
    assert answered == server.stats()["calls_total"] - begun >= 100
    assert set(failures) <= {grpc.StatusCode.UNAVAILABLE}


def test_stop_ends_open_calls_as_unavailable(start_server: StartServer) -> None:
    server = start_server()
    with server.channel(("grpc.enable_retries", 0)) as own:
        calls = [echo(own, "Never").future(b"") for _ in range(10)]
        wait_until(lambda: server.stats()["calls_open"] == 10, "ten calls are open")
        server.send("quit")
        for call in calls:
            assert call.code() is grpc.StatusCode.UNAVAILABLE
            assert call.details() == "the server stopped"


def test_idle_connections_do_not_hold_up_a_drain(start_server: StartServer) -> None:
    server = start_server()
    with server.channel() as first, socket.create_connection(("127.0.0.1", server.port)) as silent:
        assert echo(first)(b"x", timeout=TIMEOUT_S) == b"x"
        wait_until(lambda: server.stats()["connections_open"] == 2, "both are connected")
        assert server.command("drain 60000") == {"drained": True}
        silent.settimeout(TIMEOUT_S)
        while silent.recv(4096):
            pass


def test_too_many_connections_are_closed(start_server: StartServer) -> None:
    server = start_server(max_connections=3)
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    wait_until(lambda: server.stats()["connections_open"] == 3, "three are connected")
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as refused:
        assert refused.recv(1) == b""
    wait_logged(server, "there are 3 already")
    held.pop().close()
    wait_until(lambda: server.stats()["connections_open"] == 2, "one has gone")
    with server.channel() as own:
        assert echo(own)(b"x", timeout=TIMEOUT_S) == b"x"
    for connection in held:
        connection.close()


def test_keepalive_leaves_living_clients_alone(start_server: StartServer) -> None:
    server = start_server(keepalive_interval_ms=100, keepalive_timeout_ms=20000)
    with server.channel() as own:
        assert echo(own)(b"x", timeout=TIMEOUT_S) == b"x"
        sent = server.stats()["bytes_sent"]
        wait_until(lambda: server.stats()["bytes_sent"] >= sent + 5 * 17, "five pings were sent")
        assert echo(own)(b"x", timeout=TIMEOUT_S) == b"x"
    assert server.stats()["connections_total"] == 1
