"""Foreign HTTP/2 clients, which know nothing of gRPC: nghttp2's h2load, and curl."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.rpc.rpc_server import EchoServer, method, wait_until

MESSAGE = b"any bytes \x00\xff of a message"
GRPC_HEADERS = ["-H", "content-type: application/grpc", "-H", "te: trailers"]


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing on $PATH: run scripts/setup, which installs it")
    return found


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, timeout=150, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr.decode()}"
    return done.stdout.decode()


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    """A file with one gRPC frame: not compressed, the length, the message."""
    path = tmp_path / "frame"
    path.write_bytes(b"\x00" + len(MESSAGE).to_bytes(4, "big") + MESSAGE)
    return path


@dataclass(frozen=True)
class CurlAnswer:
    status: str
    headers: str  # and trailers
    body: bytes


def curl(server: EchoServer, folder: Path, *options: str) -> CurlAnswer:
    """One request of curl over HTTP/2 without TLS and without an upgrade."""
    headers, body = folder / "headers", folder / "body"
    command = [tool("curl"), "--silent", "--show-error", "--http2-prior-knowledge", "--max-time", "120"]
    command += ["--dump-header", str(headers), "--output", str(body), "--write-out", "%{http_version} %{http_code}"]
    status = run([*command, *options, f"http://{server.address}{method('Unary')}"])
    return CurlAnswer(status, headers.read_bytes().decode(), body.read_bytes() if body.exists() else b"")


@pytest.mark.parametrize(("clients", "streams"), [(1, 1), (1, 100), (20, 20), (100, 2)])
def test_h2load(server: EchoServer, frame: Path, clients: int, streams: int) -> None:
    before = server.stats()
    requests = 2000
    command = [tool("h2load"), "-n", str(requests), "-c", str(clients), "-m", str(streams), "-t", "1"]
    said = run([*command, "-d", str(frame), *GRPC_HEADERS, f"http://{server.address}{method('Unary')}"])
    assert f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in said, said
    assert f"status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx" in said, said
    received = re.search(r"\((\d+)\) data", said)
    assert received, said
    assert int(received.group(1)) == requests * frame.stat().st_size  # each got its echo
    # A client has its answer a moment before the server lets go of the call.
    wait_until(lambda: server.stats()["calls_open"] == 0, "no call is open")
    after = server.stats()
    assert after["calls_total"] - before["calls_total"] == requests
    assert after["protocol_errors"] == before["protocol_errors"]


def test_curl_posts_a_frame(server: EchoServer, frame: Path, tmp_path: Path) -> None:
    answer = curl(server, tmp_path, *GRPC_HEADERS, "--data-binary", f"@{frame}")
    assert answer.status == "2 200"
    assert answer.body == frame.read_bytes()
    before_body, _, trailers = answer.headers.partition("\r\n\r\n")
    assert "content-type: application/grpc" in before_body
    assert "grpc-status" not in before_body
    assert "grpc-status: 0\r\n" in trailers


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ([], "405", "gRPC needs the HTTP method POST, not 'GET'"),
        # Without a body: curl fails when the answer closes a stream on which it still has something to send.
        (["-X", "POST", "-H", "content-type: application/json"], "415", "the content-type is 'application/json'"),
        (["-X", "POST", "-H", "content-type: application/grpc"], "400", "the request has no 'te: trailers'"),
    ],
)
def test_what_is_no_grpc_gets_a_clear_http_error(
    server: EchoServer, tmp_path: Path, options: list[str], status: str, said: str
) -> None:
    answer = curl(server, tmp_path, *options)
    assert answer.status == f"2 {status}"
    assert "grpc-status: 13\r\n" in answer.headers
    assert said in answer.headers
    assert answer.body == b""
