"""HTTP calls that a replica has pulled, run through an application: what it is asked, and what its answers mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from serving._proto import broker_pb2 as bpb
from serving.broker.puller.asgi import AsgiRunner
from serving.broker.puller.run import EntryRunner, Job, Returned
from serving.errors import Code
from tests.support.waiting import eventually_async

CHAT = "/v1/chat/completions"
EVENTS = "text/event-stream; charset=utf-8"


class Application:
    """Answers with the pieces that it is given, and notes what it was asked."""

    def __init__(self, *pieces: bytes, status: int = 200, kind: str = "application/json") -> None:
        self.pieces = pieces
        self.status = status
        self.kind = kind
        self.scope: Scope = {}
        self.body = b""
        self.cancelled = False
        self.waits = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.body = scope, (await receive())["body"]
        if self.waits:
            try:
                await receive()  # until the client goes away, which it does not do by itself
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        await send(self._start())
        for number, piece in enumerate(self.pieces):
            more = number < len(self.pieces) - 1
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    def _start(self) -> Message:
        return {
            "type": "http.response.start",
            "status": self.status,
            "headers": [(b"content-type", self.kind.encode())],
        }

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.scope["headers"]}


def job(emit: Callable[[bytes], None] | None = None, path: str = CHAT, **more: Any) -> Job:
    metadata = {"TraceParent": "00-aa-bb-01", "content-length": "9999"}
    return Job(
        bpb.Request(http=bpb.HttpCall(path=path, body=b"{}"), metadata=metadata),
        more.pop("left_s", None),
        emit,
        **more,
    )


def error(message: str, kind: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind}}).encode()


async def test_the_application_gets_what_was_submitted() -> None:
    app = Application(b'{"a"', b":1}")
    answer = await AsgiRunner(app).run(job(left_s=20.0))
    assert answer == bpb.Result(http=bpb.HttpAnswer(status=200, content_type="application/json", body=b'{"a":1}'))
    assert (app.scope["method"], app.scope["path"], app.body) == ("POST", CHAT, b"{}")
    assert app.headers["traceparent"] == "00-aa-bb-01"
    assert app.headers["content-length"] == "2"
    assert app.headers["content-type"] == "application/json"
    assert 19 < float(app.headers["x-request-timeout"]) <= 20


async def test_a_stream_is_told_in_whole_events_and_kept_whole() -> None:
    parts: list[bytes] = []
    app = Application(b"data: 1\n\ndata", b": 2\n", b"\ndata: 3\n\n", b"", b"data: [DONE]\n\n", kind=EVENTS)
    answer = await AsgiRunner(app).run(job(parts.append))
    assert parts == [b"data: 1\n\n", b"data: 2\n\ndata: 3\n\n", b"data: [DONE]\n\n"]
    assert isinstance(answer, bpb.Result)
    assert answer.http.body == b"".join(parts)


async def test_what_is_no_stream_has_no_parts() -> None:
    parts: list[bytes] = []
    await AsgiRunner(Application(b"{}")).run(job(parts.append))
    await AsgiRunner(Application(b"data: 1\n\n", kind=EVENTS, status=400)).run(job(parts.append))
    assert parts == []


@pytest.mark.parametrize(
    ("status", "code", "full"),
    [(429, Code.RESOURCE_EXHAUSTED, True), (503, Code.UNAVAILABLE, False), (502, Code.UNAVAILABLE, False)],
)
async def test_a_replica_without_room_or_that_leaves_gives_it_back(status: int, code: Code, full: bool) -> None:
    answer = await AsgiRunner(Application(error("not now", "x"), status=status)).run(job())
    assert isinstance(answer, Returned)
    assert (answer.failure.code, answer.failure.message, answer.begun, answer.full) == (code, "not now", False, full)
    words = await AsgiRunner(Application(b"<html>", status=status)).run(job())
    assert isinstance(words, Returned)
    assert words.failure.message == f"the replica answered with {status}"


async def test_an_error_of_the_request_is_its_result() -> None:
    for status in (400, 404, 500):
        answer = await AsgiRunner(Application(error("wrong", "invalid_request_error"), status=status)).run(job())
        assert isinstance(answer, bpb.Result)
        assert answer.http.status == status


async def test_a_stream_that_breaks_off_is_not_a_result() -> None:
    broken = b"data: 1\n\ndata: " + error("the engine failed", "server_error") + b"\n\n"
    answer = await AsgiRunner(Application(broken, kind=EVENTS)).run(job())
    assert isinstance(answer, Returned)
    assert answer.begun
    assert "the engine failed" in answer.failure.message
    wrong = b"data: 1\n\ndata: " + error("no such grammar", "invalid_request_error") + b"\n\n"
    answer = await AsgiRunner(Application(wrong, kind=EVENTS)).run(job())
    assert isinstance(answer, bpb.Result)
    assert answer.http.status == 400


async def test_more_than_the_broker_keeps_is_a_failure() -> None:
    answer = await AsgiRunner(Application(b"12345", b"6")).run(job(max_result_bytes=5))
    assert isinstance(answer, bpb.Result)
    assert answer.failure.code == Code.FAILED_PRECONDITION
    assert "max_result_bytes" in answer.failure.message


async def test_the_deadline_ends_the_call() -> None:
    app = Application()
    app.waits = True
    answer = await AsgiRunner(app).run(job(left_s=0.05))
    assert isinstance(answer, bpb.Result)
    assert answer.failure.code == Code.DEADLINE_EXCEEDED
    assert app.cancelled


async def test_whoever_stops_the_run_ends_the_call() -> None:
    app = Application()
    app.waits = True
    running = asyncio.create_task(AsgiRunner(app).run(job()))
    await eventually_async(lambda: app.scope, timeout_s=30, what="it runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert app.cancelled


async def test_an_application_that_fails_or_says_nothing() -> None:
    async def fails(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("secret")

    async def silent(_scope: Scope, _receive: Receive, _send: Send) -> None:
        return

    answer = await AsgiRunner(fails).run(job())
    assert isinstance(answer, bpb.Result)
    assert answer.failure.code == Code.INTERNAL
    assert "secret" not in answer.failure.message
    returned = await AsgiRunner(silent).run(job())
    assert isinstance(returned, Returned)
    assert returned.begun


@pytest.mark.parametrize("path", ["", "v1", "/v1\r\nx"])
async def test_a_path_is_a_path(path: str) -> None:
    answer = await AsgiRunner(Application()).run(job(path=path))
    assert isinstance(answer, bpb.Result)
    assert answer.failure.code == Code.INVALID_ARGUMENT


async def test_a_deployment_is_asked_in_what_it_speaks() -> None:
    runner = EntryRunner(http=AsgiRunner(Application(b"{}")))
    for request in (bpb.Request(infer=b"x"), bpb.Request()):
        answer = await runner.run(Job(request))
        assert isinstance(answer, bpb.Result)
        assert answer.failure.code == Code.INVALID_ARGUMENT
        assert "is asked by OpenAI's HTTP protocol" in answer.failure.message
    assert isinstance(await runner.run(job()), bpb.Result)
