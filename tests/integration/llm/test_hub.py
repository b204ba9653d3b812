"""Models by their names on the hub: a small server that speaks its protocol, asked by the real client."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving.errors import NotFound
from serving.hub_name import HubName
from serving.llm.hub import fetch

COMMIT = "1234567890" * 4
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"w" * 3_000_000,
    "openvino_model.xml": b"<net/>",
    "openvino_model.bin": b"b" * 1000,
    "pytorch_model.bin": b"never wanted",
    "original/model.safetensors": b"neither is this",
    "q4.gguf": b"GGUF",
}


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == f"/api/models/me/chat/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in FILES.items()
            ]
            self.answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/me/chat/resolve/{COMMIT}/"):
            data = FILES[path.partition(f"{COMMIT}/")[2]]
            self.answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            code = "RevisionNotFound" if path.startswith("/api/models/me/chat/") else "RepoNotFound"
            self.answer(404, b"", {"X-Error-Code": code})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


NOBODY = "http://127.0.0.1:9"  # where no server listens


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(30)


def name(file: str = "", repository: str = "me/chat", commit: str = COMMIT) -> HubName:
    return HubName(repository, file, commit)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_each_engine_gets_what_it_reads_and_the_cache_keeps_it(hub: str, tmp_path: Path) -> None:
    told: list[str] = []
    folder = fetch(name(), "vllm", told.append, endpoint=hub, cache=tmp_path)
    assert names(folder) == {"config.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert told[0] == "looking for me/chat on the hub"
    assert told[-1] == "downloads me/chat: 2.9 of 2.9 MiB"
    assert fetch(name(), "vllm", print, endpoint=NOBODY, cache=tmp_path) == folder
    fetch(name(), "openvino", print, endpoint=hub, cache=tmp_path)
    assert names(folder) == {"config.json", "model.safetensors", "openvino_model.xml", "openvino_model.bin"}
    assert fetch(name("q4.gguf"), "openvino", print, endpoint=hub, cache=tmp_path).read_bytes() == b"GGUF"


def test_what_the_hub_does_not_have_is_named(hub: str, tmp_path: Path) -> None:
    for wanted, message in (
        (name(repository="me/none"), "no model me/none, or shows it to its members only: set HF_TOKEN"),
        (name(commit="f" * 40), "me/chat has no commit f{40} on the hub"),
        (name("none.gguf"), r"me/chat has no file none\.gguf at 1234567890"),
    ):
        with pytest.raises(NotFound, match=message):
            fetch(wanted, "openvino", print, endpoint=hub, cache=tmp_path)


def test_a_hub_that_may_not_be_asked_is_said_so(tmp_path: Path) -> None:
    script = (
        "import sys; from serving.hub_name import HubName; from serving.llm.hub import fetch\n"
        "fetch(HubName(*sys.argv[1:]), 'vllm', print)"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, "me/chat", "", COMMIT], env=offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Unavailable: me/chat cannot be fetched from the hub, and this node's cache (HF_HOME) does" in done.stderr
