"""How a replica runs what it has pulled: the seam between the puller and the replica's own entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client import CollectorRegistry

from serving._proto import broker_pb2 as bpb
from serving.errors import Code, InvalidArgument, MeshError, ResourceExhausted, Unavailable

DEFAULT_RESULT_BYTES: Final = 64 << 20
_SPOKEN: Final = {"infer": "KServe v2 (inputs)", "http": "OpenAI's HTTP protocol (a JSON body)"}


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at an item. `left_s` is None without a deadline; `emit` takes parts of the result as they come."""

    request: bpb.Request
    left_s: float | None = None
    emit: Callable[[bytes], None] | None = None
    max_result_bytes: int = DEFAULT_RESULT_BYTES


@dataclass(frozen=True, slots=True)
class Returned:
    """The item may run again: elsewhere, or later. `begun`: some of it has run here."""

    failure: bpb.Failure
    begun: bool = False

    @property
    def full(self) -> bool:
        """There was no room for it."""
        return self.failure.code == Code.RESOURCE_EXHAUSTED and not self.begun


class Runner(Protocol):
    """The replica's own entry."""

    async def run(self, job: Job) -> bpb.Result | Returned:
        """What came of it. Raises nothing but `CancelledError`, before which the run is told to stop."""


@dataclass(frozen=True, slots=True)
class PullEntry:
    """What a replica that asks brokers for work gives its puller: how work is run, and where it is counted."""

    runner: Runner
    registry: CollectorRegistry
    least: int = 1  # items that are always asked for: more where the model computes some together


class ResultTooLarge(MeshError):
    """More came of a request than the broker keeps."""

    code = Code.FAILED_PRECONDITION
    http_status = 412

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"the result has more than {limit_bytes} bytes, which is the most that the broker keeps "
            "(`max_result_bytes`); ask for less, or call the deployment directly"
        )


def failed(error: MeshError, *, begun: bool) -> bpb.Result | Returned:
    """An error as an outcome: another attempt may help where nobody was there, or nobody had room."""
    failure = bpb.Failure(code=int(error.code), message=error.message)
    if isinstance(error, Unavailable | ResourceExhausted):
        return Returned(failure, begun)
    return bpb.Result(failure=failure)


class EntryRunner:
    """A `Runner` for what a replica speaks: KServe v2, OpenAI's HTTP protocol, or both."""

    def __init__(self, *, infer: Runner | None = None, http: Runner | None = None) -> None:
        self._by_body: dict[str, Runner] = {}
        if infer is not None:
            self._by_body["infer"] = infer
        if http is not None:
            self._by_body["http"] = http

    async def run(self, job: Job) -> bpb.Result | Returned:
        body = job.request.WhichOneof("body") or "nothing"
        runner = self._by_body.get(body)
        if runner is None:
            spoken = " and ".join(_SPOKEN[name] for name in self._by_body)
            text = f"this deployment is asked by {spoken}, and the request is {_SPOKEN.get(body, 'empty')}"
            return failed(InvalidArgument(text), begun=False)
        return await runner.run(job)
