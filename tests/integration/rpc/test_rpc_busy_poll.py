"""A server whose loops poll before they sleep: it answers the same, and polls only while there is traffic."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import grpc
import psutil
import pytest

from tests.integration.rpc.conftest import StartServer
from tests.integration.rpc.rpc_server import EchoServer, echo, method, wait_until

TIMEOUT_S = 60.0
LONG_US = 3_600_000_000  # far longer than a test: it polls all the time from the first event on


def cpu_s(server: EchoServer) -> float:
    used = psutil.Process(server.process.pid).cpu_times()
    return float(used.user + used.system)


@pytest.mark.parametrize("busy_poll_us", [5, 200, 1000])
def test_calls_are_answered(busy_poll_us: int, start_server: StartServer) -> None:
    """Also those that another thread answers, and with pauses around the time for which it polls."""
    server = start_server(event_loops=2, busy_poll_us=busy_poll_us)
    with server.channel() as own:
        for name in ("Unary", "Threaded"):
            for i in range(300):
                assert echo(own, name)(str(i).encode(), timeout=TIMEOUT_S) == str(i).encode()
                time.sleep((i % 5) * busy_poll_us / 2e6)
        assert list(own.stream_stream(method("Bidi"))(iter([b"1", b"2"]), timeout=TIMEOUT_S)) == [b"1", b"2"]


def test_an_idle_server_sleeps_and_takes_no_cpu_time(start_server: StartServer) -> None:
    server = start_server(event_loops=2, busy_poll_us=1000)
    with server.channel() as own:
        assert echo(own)(b"x", timeout=TIMEOUT_S) == b"x"
        time.sleep(1)  # what follows a new connection: settings, pings
        slept, before = server.stats()["loop_sleeps"], cpu_s(server)
        time.sleep(2)
        assert cpu_s(server) - before < 0.2
        assert server.stats()["loop_sleeps"] - slept < 100, "nor does it wake up again and again"


def test_a_server_that_polls_does_not_sleep_between_calls(start_server: StartServer) -> None:
    server = start_server(event_loops=1, busy_poll_us=LONG_US)
    with server.channel() as own:
        assert echo(own)(b"x", timeout=TIMEOUT_S) == b"x"
        slept = server.stats()["loop_sleeps"]
        for _ in range(200):
            assert echo(own, "Threaded")(b"x", timeout=TIMEOUT_S) == b"x"
        assert server.stats()["loop_sleeps"] == slept


def test_deadlines_and_keepalive_go_by_the_clock_while_it_polls(start_server: StartServer) -> None:
    server = start_server(event_loops=1, busy_poll_us=LONG_US)
    with server.channel() as own:
        assert echo(own)(b"x", timeout=TIMEOUT_S) == b"x"
        with pytest.raises(grpc.RpcError) as caught:
            echo(own, "Never")(b"x", timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: server.stats()["calls_open"] == 0, "the server has ended the call by its own timer")


def test_a_drain_waits_for_calls_and_ends_promptly_while_it_polls(start_server: StartServer) -> None:
    server = start_server(event_loops=2, busy_poll_us=LONG_US)
    release = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"1"
        release.wait(TIMEOUT_S)
        yield b"2"

    with server.channel() as own:
        call = own.stream_stream(method("Bidi"))(requests(), timeout=TIMEOUT_S)
        assert next(call) == b"1"
        assert server.command("drain 10") == {"drained": False}
        release.set()
        assert list(call) == [b"2"]
        assert server.command("drain 60000") == {"drained": True}


def test_stop_ends_open_calls_while_it_polls(start_server: StartServer) -> None:
    """That the process ends is what `EchoServer` checks of each."""
    server = start_server(event_loops=2, busy_poll_us=LONG_US)
    with server.channel(("grpc.enable_retries", 0)) as own:
        calls = [echo(own, "Never").future(b"") for _ in range(10)]
        wait_until(lambda: server.stats()["calls_open"] == 10, "ten calls are open")
        server.send("quit")
        assert {call.code() for call in calls} == {grpc.StatusCode.UNAVAILABLE}
