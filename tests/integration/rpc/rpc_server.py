"""Runs the C++ test server (cpp_ext/tests/rpc/echo_server.cc) and talks to it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import grpc
import psutil

from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[3]
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60


def server_binary() -> Path:
    """The built server; MESH_BUILD_DIR names another build (one with sanitizers, say)."""
    build = Path(os.environ.get("MESH_BUILD_DIR", ROOT / "build" / "cmake"))
    return build / "cpp_ext" / "tests" / "rpc" / "rpc_echo_server"


class EchoServer:
    """One process of the test server, with command-line options as keyword arguments."""

    def __init__(self, log: Path, **options: object) -> None:
        self.log = log
        self._log_file: IO[bytes] = log.open("wb")
        self.process = subprocess.Popen(
            [str(server_binary()), *(f"--{name}={value}" for name, value in options.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
        )
        started = self._answer()
        self.port: int = started["port"]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _answer(self) -> dict[str, Any]:
        stdout = self.process.stdout
        if stdout is None:
            raise RuntimeError("the server was started without a pipe")
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with {self.process.wait(STOP_TIMEOUT_S)}: {self.log_text()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def send(self, line: str) -> None:
        """Writes a command without waiting for its answer."""
        stdin = self.process.stdin
        if stdin is None:
            raise RuntimeError("the server was started without a pipe")
        stdin.write(line.encode() + b"\n")
        stdin.flush()

    def command(self, line: str) -> dict[str, Any]:
        self.send(line)
        return self._answer()

    def stats(self) -> dict[str, int]:
        return self.command("stats")

    def resident_bytes(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    def log_text(self) -> str:
        self._log_file.flush()
        return self.log.read_text(errors="replace")

    def channel(self, *options: tuple[str, Any]) -> grpc.Channel:
        return grpc.insecure_channel(self.address, options=[*UNLIMITED, *options])

    def __enter__(self) -> EchoServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the server, which must end cleanly: a sanitizer's finding or a crash fails the test."""
        try:
            if self.process.stdin is not None:
                self.process.stdin.close()
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()
            self._log_file.close()
        log = self.log.read_text(errors="replace")
        if code != 0 or "Sanitizer" in log or "runtime error:" in log:
            raise RuntimeError(f"the server ended with {code}:\n{log[-8000:]}")


UNLIMITED: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


def method(name: str) -> str:
    return f"/mesh.test.Echo/{name}"


def echo(channel: grpc.Channel, name: str = "Unary") -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    """A unary method of the test server; messages are bytes."""
    return channel.unary_unary(method(name))


def wait_logged(server: EchoServer, text: str) -> None:
    """Until the server's log has a text: a client may have its answer, or see its connection end, before that."""
    wait_until(lambda: text in server.log_text(), f"{text!r} in {server.log}")


def wait_until(look: Callable[[], bool], what: str) -> None:
    """Waits for a fact about a server; generous, since machines are busy."""
    eventually(look, timeout_s=60, what=what)
