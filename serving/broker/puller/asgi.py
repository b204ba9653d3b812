"""Runs HTTP calls through the replica's own ASGI application, without a socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

from serving._proto import broker_pb2 as bpb
from serving.broker.puller.run import Job, ResultTooLarge, Returned, failed
from serving.errors import Code, DeadlineExceeded, InvalidArgument
from serving.python_deployment.failure import at_edge
from serving.timeouts import cancel_and_wait, wait_for
from serving.wire import TIMEOUT

_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_EVENT_END: Final = b"\n\n"
_FULL: Final = 429
_AWAY: Final = (502, 503)
_WRONG: Final = 400
_ERRORS: Final = 400  # and above
_FAULTS: Final = ("server_error", "rate_limit_error")  # types of errors that another attempt may not meet
_OWN: Final = frozenset({"content-type", "content-length", "content-encoding", "transfer-encoding", "connection"})
_LONGEST_S: Final = 9_999_999.0  # that the header for deadlines can say


class AsgiRunner:
    """A `Runner` on the loop that serves."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def run(self, job: Job) -> bpb.Result | Returned:
        answer = _Answer(job)
        try:
            await wait_for(self._call(job, answer), job.left_s)
            return answer.outcome()
        except asyncio.TimeoutError:
            return failed(DeadlineExceeded("the item's deadline passed while it ran"), begun=True)
        except Exception as error:  # noqa: BLE001 - the edge: it becomes an outcome
            return failed(at_edge(error, "Pull"), begun=bool(answer.status))

    async def _call(self, job: Job, answer: _Answer) -> None:
        body: list[bytes] = [job.request.http.body]
        ended = asyncio.Event()

        async def receive() -> Message:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await ended.wait()
            return {"type": "http.disconnect"}

        running = asyncio.ensure_future(self._application(_scope(job), receive, answer.take))
        try:
            await running
        finally:
            ended.set()
            await cancel_and_wait(running)


def _scope(job: Job) -> Scope:
    """Raises `InvalidArgument` for a path that is none."""
    call = job.request.http
    path, _, query = call.path.partition("?")
    if not path.startswith("/") or not path.isprintable():
        raise InvalidArgument(f"{call.path[:80]!r} is not the path of an HTTP call, such as /v1/chat/completions")
    headers = {name.lower(): value for name, value in job.request.metadata.items() if name.lower() not in _OWN}
    headers["content-type"] = call.content_type or _JSON
    headers["content-length"] = str(len(call.body))
    if job.left_s is not None:
        headers[TIMEOUT.decode()] = f"{min(max(job.left_s, 0.001), _LONGEST_S):.3f}"
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": query.encode("utf-8", "replace"),
        "root_path": "",
        "headers": [(_latin(name), _latin(value)) for name, value in headers.items()],
        "client": None,
        "server": None,
        "extensions": {},
        "state": {},
    }


def _latin(text: str) -> bytes:
    return text.encode("latin-1", "replace")


class _Answer:
    """An answer as it comes. Parts of a stream end where its events do."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._body = bytearray()
        self._told = 0  # of the body, as parts
        self.status = 0
        self._type = ""

    async def take(self, message: Message) -> None:
        """Raises `ResultTooLarge`."""
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            headers = {bytes(name).lower(): bytes(value) for name, value in message.get("headers", ())}
            self._type = headers.get(b"content-type", b"").decode("latin-1")
            return
        if message["type"] != "http.response.body":
            return
        self._body += message.get("body", b"")
        if len(self._body) > self._job.max_result_bytes:
            raise ResultTooLarge(self._job.max_result_bytes)
        self._tell(last=not message.get("more_body", False))

    @property
    def _streams(self) -> bool:
        return self.status < _ERRORS and self._type.startswith(_EVENTS)

    def _tell(self, *, last: bool) -> None:
        if self._job.emit is None or not self._streams:
            return
        found = self._body.rfind(_EVENT_END, self._told)
        end = len(self._body) if last else found + len(_EVENT_END) if found >= 0 else self._told
        if end > self._told:
            self._job.emit(bytes(self._body[self._told : end]))
            self._told = end

    def outcome(self) -> bpb.Result | Returned:
        if not self.status:
            missing = bpb.Failure(code=Code.INTERNAL, message="the replica ended the call without an answer")
            return Returned(missing, begun=True)
        body = bytes(self._body)
        if self.status == _FULL or self.status in _AWAY:
            code = Code.RESOURCE_EXHAUSTED if self.status == _FULL else Code.UNAVAILABLE
            words = str(_error_of(body).get("message") or f"the replica answered with {self.status}")
            return Returned(bpb.Failure(code=code, message=words))
        broken = _error_of(_last_event(body)) if self._streams else {}
        if broken.get("type") in _FAULTS:
            words = f"the stream broke off: {broken.get('message')}"
            return Returned(bpb.Failure(code=Code.INTERNAL, message=words), begun=True)
        status = _WRONG if broken else self.status
        return bpb.Result(http=bpb.HttpAnswer(status=status, content_type=self._type, body=body))


def _error_of(body: bytes) -> dict[str, Any]:
    """An OpenAI error object's own fields; none for anything else."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, dict) else {}


def _last_event(body: bytes) -> bytes:
    """The data of a stream's last event: an error there says that it broke off."""
    last = body.rstrip().rpartition(_EVENT_END)[2]
    data = [line[5:].strip() for line in last.splitlines() if line.startswith(b"data:")]
    return data[-1] if data else b""
