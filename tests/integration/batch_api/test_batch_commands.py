"""`mesh batch` against a real gateway and etcd; where a runner is needed its seam answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serving._proto import batch_pb2 as pb
from serving.cli.gateway_calls import Address, Gateway
from serving.cli.group import mesh
from serving.local.etcd import EtcdCluster
from tests.support.batch_seam import SeamRunner, outcome
from tests.support.llm_serving import GatewayProcess

ENDPOINT = "/v1/chat/completions"
Mesh = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster, folder: Path) -> Iterator[GatewayProcess]:
    limits = {"max_input_bytes": 2_000_000, "max_file_bytes": 3_000_000}
    made = GatewayProcess(
        tmp_path_factory.mktemp("gateway"),
        etcd.config(),
        leave_s=0.0,
        batch_store=folder.as_uri(),
        batch_limits=limits,
    )
    yield made
    made.end()


@pytest.fixture
def seam(etcd: EtcdCluster, folder: Path) -> SeamRunner:
    return SeamRunner(etcd.config(), folder)


@pytest.fixture
def run(gateway: GatewayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mesh:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESH_GATEWAY", gateway.url)
    monkeypatch.setattr("serving.cli.gateway_calls._PAUSE_S", 0.01)

    def call(*words: str) -> Result:
        return CliRunner().invoke(mesh, ["batch", *words], prog_name="mesh")

    return call


def found(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def request(number: int, **changes: Any) -> dict[str, Any]:
    return {"custom_id": f"c{number}", "method": "POST", "url": ENDPOINT, "body": {"model": "m"}} | changes


def input_file(path: Path, count: int, **changes: Any) -> str:
    path.write_text("".join(f"{json.dumps(request(number, **changes))}\n" for number in range(count)))
    return str(path)


def ids_of(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_from_a_file_to_its_answers(run: Mesh, seam: SeamRunner, tmp_path: Path) -> None:
    file = input_file(tmp_path / "in.jsonl", 3)
    made = found(run("submit", file, "--window", "2h", "--metadata", "for=test", "--in-order", "--json"))
    assert (made["status"], made["endpoint"], made["completion_window"]) == ("validating", ENDPOINT, "2h")
    assert made["metadata"] == {"for": "test"}
    assert made["id"] in [one["id"] for one in found(run("list", "--json"))["batches"]]
    assert f"{made['id']}  validating  -" in run("list").stdout
    missing = run("download", made["id"])
    assert (missing.exit_code, missing.stderr) == (
        1,
        f"mesh: batch {made['id']} is validating: it has no files (yet)\n",
    )
    answers = [outcome("c0"), outcome("c2", text="ü")]
    asyncio.run(seam.end(made["id"], pb.COMPLETED, total=3, output=answers, errors=[outcome("c1", 0)]))
    shown = run("show", made["id"]).stdout
    assert shown.startswith(f"{made['id']}  completed\n")
    assert "2 of 3 have an answer, 1 failed" in shown
    fetched = found(run("download", made["id"], "-o", "out.jsonl", "--json"))
    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == answers
    errors = Path(f"{made['id']}.errors.jsonl")
    assert fetched["errors"] == {"path": str(errors), "bytes": errors.stat().st_size}
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(["in.jsonl", "out.jsonl", errors.name])
    again = run("download", made["id"], "-o", "out.jsonl")
    assert (again.exit_code, "--force" in again.stderr) == (1, True)
    assert run("download", made["id"], "-o", "out.jsonl", "--force").exit_code == 0


def test_wrong_lines_are_named_and_nothing_is_sent(run: Mesh, folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.rglob("*"))
    path = tmp_path / "in.jsonl"
    path.write_text(
        "\n".join([json.dumps(request(0)), "{no", json.dumps(request(0)), json.dumps(request(3, url="/x"))])
    )
    refused = run("submit", str(path))
    assert refused.exit_code == 2
    assert [line.strip()[: len(str(path)) + 3] for line in refused.stderr.splitlines()[1:]] == [
        f"{path}:{number}:" for number in (2, 3, 4)
    ]
    for words in ((str(tmp_path / "none.jsonl"),), (str(path), "--metadata", "x"), (str(path), "--endpoint", "/v1/x")):
        assert run("submit", *words).exit_code == 2
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    assert "no requests" in run("submit", str(empty)).stderr
    assert sorted(folder.rglob("*")) == before


def test_the_endpoint_is_that_of_the_first_line(run: Mesh, tmp_path: Path) -> None:
    body = {"model": "m", "input": "text"}
    file = input_file(tmp_path / "in.jsonl", 2, url="/v1/embeddings", body=body)
    assert found(run("submit", file, "--json"))["endpoint"] == "/v1/embeddings"
    wrong = run("submit", file, "--endpoint", ENDPOINT)
    assert (wrong.exit_code, "in.jsonl:1: `url`" in wrong.stderr) == (2, True)


def test_what_the_gateway_refuses_is_said(run: Mesh, tmp_path: Path) -> None:
    file = input_file(tmp_path / "in.jsonl", 1)
    for words, code, text in (
        (("submit", file, "--window", "1s"), 2, "completion_window"),
        (("show", "batch_" + "0" * 32), 3, "there is no batch"),
        (("cancel", "../files"), 3, "there is no"),
        (("download", "a b/c?d#e"), 3, "there is no"),
        (("resume", "batch_1"), 3, "there is no batch"),
    ):
        answered = run(*words)
        assert (answered.exit_code, text in answered.stderr) == (code, True), answered.stderr
        assert "Traceback" not in answered.stderr
    large = input_file(tmp_path / "large.jsonl", 300, body={"model": "m", "x": "y" * 10_000})
    refused = run("submit", large, "--json")
    assert (refused.exit_code, json.loads(refused.stderr)["error"]["code"]) == (2, "INVALID_ARGUMENT"), refused.stderr


def test_a_file_tells_how_much_of_it_is_sent(gateway: GatewayProcess, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x" * 1_500_000)
    told: list[tuple[int, int]] = []

    async def send() -> dict[str, Any]:
        async with Gateway(Address.of(gateway.url)) as asked:
            return await asked.send_file(path, "näme ;1.jsonl", told=lambda *now: told.append(now))

    sent = asyncio.run(send())
    assert (sent["bytes"], sent["filename"]) == (1_500_000, "näme ;1.jsonl")
    assert told[-1] == (1_500_000, 1_500_000)
    assert sorted(told) == told
    assert len(told) > 3


def test_what_answers_is_no_gateway(run: Mesh, etcd: EtcdCluster) -> None:
    (endpoint, *_) = etcd.config().endpoints
    answered = run("list", "--gateway", endpoint)
    assert answered.exit_code in (1, 3, 4), answered.stderr
    assert "Error" not in answered.stderr


def test_cancel(run: Mesh, tmp_path: Path) -> None:
    made = found(run("submit", input_file(tmp_path / "in.jsonl", 2), "--json"))
    assert found(run("cancel", made["id"], "--json"))["status"] == "cancelled"
    assert run("cancel", made["id"]).stdout.startswith(f"{made['id']}  cancelled")


@contextlib.contextmanager
def followed(*words: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "serving.cli", "batch", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_batch_is_followed_to_its_end(run: Mesh, seam: SeamRunner, tmp_path: Path) -> None:
    made = found(run("submit", input_file(tmp_path / "in.jsonl", 4), "--json"))
    with followed("show", made["id"], "--watch", "--json") as process:
        assert process.stdout is not None
        events = [json.loads(process.stdout.readline())["batch"]]
        asyncio.run(seam.tell(made["id"], pb.IN_PROGRESS, total=4, completed=1))
        events.append(json.loads(process.stdout.readline())["batch"])
        asyncio.run(seam.end(made["id"], pb.COMPLETED, total=4, output=[outcome(f"c{n}") for n in range(4)]))
        rest, _ = process.communicate(timeout=60)
    events += [json.loads(line)["batch"] for line in rest.splitlines()]
    assert process.returncode == 0
    assert [one["status"] for one in events] == ["validating", "in_progress", "completed"]
    assert [one["request_counts"]["completed"] for one in events] == [0, 1, 4]


def test_submit_waits(run: Mesh, seam: SeamRunner, tmp_path: Path) -> None:
    file = input_file(tmp_path / "in.jsonl", 2)
    late = run("submit", file, "--wait", "--timeout", "0.1")
    assert (late.exit_code, "it goes on" in late.stderr) == (5, True)
    for state, code in ((pb.COMPLETED, 0), (pb.EXPIRED_WINDOW, 1)):
        with followed("submit", file, "--wait", "--metadata", f"code={code}") as process:
            assert process.stdout is not None
            batch_id = process.stdout.readline().strip()
            asyncio.run(seam.end(batch_id, state, total=2, output=[outcome("c0")]))
            said, told = process.communicate(timeout=60)
        assert process.returncode == code, told
        assert f"mesh batch resume {batch_id}" in told or not code
        assert "1 of 2 have an answer" in said


def test_what_has_no_answer_is_ordered_again(run: Mesh, seam: SeamRunner, tmp_path: Path) -> None:
    made = found(run("submit", input_file(tmp_path / "in.jsonl", 6), "--metadata", "a=b", "--json"))
    waits = found(run("resume", made["id"], "--json"))
    assert (waits["resumed"], "goes on by itself" in waits["why"]) == (None, True)
    asyncio.run(
        seam.end(
            made["id"],
            pb.EXPIRED_WINDOW,
            total=6,
            output=[outcome("c4"), outcome("c1")],
            errors=[outcome("c0", 0), outcome("c2", 400), outcome("c3", 500), outcome("c5", 429)],
        )
    )
    told = found(run("resume", made["id"], "--json"))
    rest = told["resumed"]
    assert told["lines"] == 3
    assert rest["metadata"] == {"a": "b", "resumes": made["id"]}
    assert found(run("resume", made["id"], "--json"))["resumed"]["id"] == rest["id"]
    another = run("resume", made["id"], "--window", "7h")
    assert (another.exit_code != 0, "completion_window" in another.stderr) == (True, True)
    other = found(run("resume", made["id"], "--also-refused", "--json"))
    assert (other["lines"], other["resumed"]["id"] != rest["id"]) == (4, True)
    asyncio.run(seam.end(rest["id"], pb.COMPLETED, total=3, output=[outcome(f"c{n}") for n in (0, 3, 5)]))
    done = run("resume", rest["id"])
    assert (done.exit_code, done.stdout) == (0, f"batch {rest['id']} has an answer for each of its 3 lines\n")


def test_a_batch_without_room_for_a_name_is_resumed_and_says_so(run: Mesh, seam: SeamRunner, tmp_path: Path) -> None:
    given = {f"k{n}": "v" for n in range(16)}
    words = [word for name in given for word in ("--metadata", f"{name}=v")]
    made = found(run("submit", input_file(tmp_path / "in.jsonl", 2), *words, "--json"))
    asyncio.run(seam.end(made["id"], pb.EXPIRED_WINDOW, total=2, output=[outcome("c0")]))
    told = found(run("resume", made["id"], "--json"))
    assert told["resumed"]["metadata"] == given
    assert "does not say `resumes`" in told["why"]


def test_a_batch_that_failed_is_not_resumed(run: Mesh, seam: SeamRunner, tmp_path: Path) -> None:
    made = found(run("submit", input_file(tmp_path / "in.jsonl", 1), "--json"))
    asyncio.run(seam.end(made["id"], pb.FAILED_VALIDATION, total=1))
    refused = run("resume", made["id"])
    assert (refused.exit_code, "correct the file" in refused.stderr) == (1, True)


def test_a_batch_that_was_given_up_is_resumed(run: Mesh, seam: SeamRunner, tmp_path: Path) -> None:
    made = found(run("submit", input_file(tmp_path / "in.jsonl", 3), "--json"))
    fault = pb.BatchLineError(code="attempts_exhausted", message="given up after 16 attempts: the disk is full")
    asyncio.run(seam.end(made["id"], pb.FAILED_VALIDATION, total=3, output=[outcome("c0")], faults=[fault]))
    assert "given up after 16 attempts" in run("show", made["id"]).stdout
    assert found(run("resume", made["id"], "--json"))["lines"] == 2


class Cutter:
    """A TCP relay that cuts every connection after `most_bytes` of its answers, and all of them after `in_all`."""

    def __init__(self, url: str, most_bytes: int, in_all: int = 1 << 40) -> None:
        self._target = url.removeprefix("http://").split(":")
        self._most_bytes = most_bytes
        self._left = in_all
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection((self._target[0], int(self._target[1])))
            for work in (self._ask, self._answer):
                threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the answers' side has ended both
            while data := client.recv(65_536):
                server.sendall(data)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        most = min(self._most_bytes, self._left)
        with contextlib.suppress(OSError), client, server:
            while most > 0 and (data := server.recv(min(65_536, most))):
                most -= len(data)
                self._left -= len(data)
                client.sendall(data)
            for one in (client, server):
                one.shutdown(socket.SHUT_RDWR)


def test_a_download_that_is_cut_goes_on(run: Mesh, seam: SeamRunner, gateway: GatewayProcess, tmp_path: Path) -> None:
    made = found(run("submit", input_file(tmp_path / "in.jsonl", 1), "--json"))
    answers = [outcome(f"c{n}", text="x" * 1000) for n in range(1000)]
    asyncio.run(seam.end(made["id"], pb.COMPLETED, total=1, output=answers))
    cutter = Cutter(gateway.url, 150_000)
    try:
        assert run("download", made["id"], "-o", "out.jsonl", "--gateway", cutter.url).exit_code == 0
    finally:
        cutter.close()
    assert cutter.connections > 5
    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == answers


def test_where_nothing_comes_through_nothing_is_left(
    run: Mesh, seam: SeamRunner, gateway: GatewayProcess, tmp_path: Path
) -> None:
    made = found(run("submit", input_file(tmp_path / "in.jsonl", 1), "--json"))
    asyncio.run(seam.end(made["id"], pb.COMPLETED, total=1, output=[outcome("c0", text="x" * 5000)]))
    for in_all in (100, 3000):  # what is told of the batch comes through with the second one, and part of the file
        cutter = Cutter(gateway.url, 1 << 20, in_all)
        try:
            failed = run("download", made["id"], "-o", "out.jsonl", "--gateway", cutter.url)
        finally:
            cutter.close()
        assert (failed.exit_code, "does not answer" in failed.stderr) == (4, True)
        assert [one.name for one in tmp_path.iterdir()] == ["in.jsonl"]
    assert run("list", "--gateway", "http://127.0.0.1:1").exit_code == 4
    assert run("download", made["id"], "-o", "none/out.jsonl").exit_code == 1
