"""`python -m serving.deployment.prepare` as replicas run it: at the same time, killed, on a warm cache."""

from __future__ import annotations

import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from google.protobuf import json_format

from serving._proto.records_pb2 import Artifact, PreparedNode
from serving.deployment.artifact_archive import pack


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    source = tmp_path / "models" / "m" / "1"
    source.mkdir(parents=True)
    (source / "model.onnx").write_bytes(os.urandom(3_000_000))
    return pack(tmp_path / "models", str(tmp_path / "store"))


def command(artifact: Artifact, cache: Path, *more: str, uri: str = "") -> list[str]:
    return [
        *(sys.executable, "-m", "serving.deployment.prepare", "--uri", uri or artifact.uri),
        *("--digest", artifact.digest, "--size", str(artifact.size_bytes), "--cache-dir", str(cache), *more),
    ]


def prepared(output: str) -> PreparedNode:
    return json_format.Parse(output.splitlines()[-1], PreparedNode())


def test_the_last_line_is_a_prepared_node(artifact: Artifact, tmp_path: Path) -> None:
    done = subprocess.run(command(artifact, tmp_path / "c"), capture_output=True, text=True, check=True)
    node = prepared(done.stdout)
    assert (Path(node.cache_directory) / "local" / "libtritoncache_local.so").is_file()
    assert (Path(node.repository_path) / "m" / "1" / "model.onnx").stat().st_size == 3_000_000
    assert (Path(node.backend_directory) / "python" / "libtriton_python.so").is_file()
    assert Path(node.triton_library).is_file()


def test_many_at_once_share_one_copy(artifact: Artifact, tmp_path: Path) -> None:
    users = [subprocess.Popen(["sleep", "300"]) for _ in range(8)]
    try:
        commands = [command(artifact, tmp_path / "c", "--user-pid", str(user.pid)) for user in users]
        started = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for line in commands]
        nodes = [prepared(process.communicate(timeout=120)[0]) for process in started]
        assert all(process.returncode == 0 for process in started)
        assert len({node.repository_path for node in nodes}) == 8, "each has folders of its own"
        files = {(Path(node.repository_path) / "m" / "1" / "model.onnx").resolve() for node in nodes}
        assert len(files) == 1
        assert all(file.stat().st_size == 3_000_000 for file in files)
    finally:
        for user in users:
            user.kill()
            user.wait()
    assert len([path for path in (tmp_path / "c" / "artifacts").iterdir() if not path.name.startswith(".")]) == 1
    assert list((tmp_path / "c" / "artifacts" / ".partial").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"uri": "/nowhere/x.tar"}, "artifact store: /nowhere/x.tar does not exist"),
        ({"digest": "sha256:" + "0" * 64}, "its record says sha256:0000"),
        ({"size_bytes": 17}, "has more than the 17 bytes that its record says"),
        ({"digest": "latest"}, "artifact digest 'latest' is not of the form sha256:<64 hex digits>"),
    ],
)
def test_failure_ends_with_one_line_that_says_why(
    artifact: Artifact, tmp_path: Path, change: dict[str, str | int], reason: str
) -> None:
    for field, value in change.items():
        setattr(artifact, field, value)
    done = subprocess.run(command(artifact, tmp_path / "c"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert reason in done.stderr.splitlines()[-1]


def test_a_warm_cache_is_quick(artifact: Artifact, tmp_path: Path) -> None:
    subprocess.run(command(artifact, tmp_path / "c"), capture_output=True, check=True)
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", *command(artifact, tmp_path / "c")[1:]],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    for slow in ("fsspec", "grpc", "ray", "numpy", "asyncio"):
        assert f" {slow}\n" not in imported, f"{slow} is imported on a warm cache"
    # Compared with what it cannot do without, since machines differ: about twice that.
    imports = [sys.executable, "-c", f"import {json_format.__name__}, {PreparedNode.__module__}"]
    spent, least = (min(cpu_s(line) for _ in range(5)) for line in (command(artifact, tmp_path / "c"), imports))
    assert spent < 5 * least, f"CPU seconds: {spent}, for the imports alone {least}"


def cpu_s(line: list[str]) -> float:
    """What a program costs."""
    before = os.times()
    subprocess.run(line, capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


class _StallingServer(ThreadingHTTPServer):
    """Serves the first half of a file and then nothing, until it is told to go on."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.stall = threading.Event()
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _StallingServer

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        self._head()
        content, half = self.server.content, len(self.server.content) // 2
        try:
            self.wfile.write(content[:half])
            if self.server.stall.is_set():
                self.wfile.flush()
                self.server.stalled.set()
                self.server.go_on.wait(60)
            self.wfile.write(content[half:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the fetching process was killed

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pipe_server(artifact: Artifact) -> Iterator[_StallingServer]:
    server = _StallingServer(Path(artifact.uri.removeprefix("file://")).read_bytes())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        thread.join()
        socketserver.TCPServer.server_close(server)


def test_killed_in_the_middle_leaves_nothing_that_counts(
    artifact: Artifact, tmp_path: Path, pipe_server: _StallingServer
) -> None:
    pytest.importorskip("aiohttp", reason="fsspec fetches http:// with aiohttp")
    uri = f"http://127.0.0.1:{pipe_server.server_address[1]}/artifact.tar"
    pipe_server.stall.set()
    fetching = subprocess.Popen(
        command(artifact, tmp_path / "c", uri=uri), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert pipe_server.stalled.wait(60)
    partial = tmp_path / "c" / "artifacts" / ".partial"
    deadline = time.monotonic() + 60
    while not list(partial.glob("*/files")) and time.monotonic() < deadline:
        time.sleep(0.01)
    fetching.send_signal(signal.SIGKILL)
    fetching.wait()
    assert len(list(partial.iterdir())) == 1, "what the killed process left"
    pipe_server.stall.clear()
    pipe_server.go_on.set()
    done = subprocess.run(command(artifact, tmp_path / "c", uri=uri), capture_output=True, text=True, check=True)
    assert (Path(prepared(done.stdout).repository_path) / "m" / "1" / "model.onnx").stat().st_size == 3_000_000
    assert list(partial.iterdir()) == []


def test_artifacts_of_living_processes_are_not_evicted(artifact: Artifact, tmp_path: Path) -> None:
    other_source = tmp_path / "other"
    other_source.mkdir()
    (other_source / "file").write_bytes(b"y" * 1_000_000)
    other = pack(other_source, str(tmp_path / "store"))
    living = subprocess.Popen(["sleep", "300"])
    try:
        user = ("--user-pid", str(living.pid))
        done = subprocess.run(command(artifact, tmp_path / "c", *user), capture_output=True, text=True, check=True)
        kept = Path(prepared(done.stdout).repository_path)
        small = ("--max-cache-bytes", "1")
        subprocess.run(command(other, tmp_path / "c", *small), capture_output=True, check=True)
        assert (kept / "m" / "1" / "model.onnx").is_file()
    finally:
        living.kill()
        living.wait()


def test_a_user_that_is_gone(artifact: Artifact, tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    done = subprocess.run(
        command(artifact, tmp_path / "c", "--user-pid", str(process.pid)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"process {process.pid}, for which the node should be prepared, is gone"
