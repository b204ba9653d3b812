"""What a case of the corpus is made of, how it is sent, and what of two servers' answers must be equal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from tests.contract.pairs import Pair
from tests.integration.ingress.kserve_servers import KServeProcess
from tests.support.waiting import eventually

TIMEOUT_S = 60
TRIES = 3
Answers = tuple[object, ...]
# What differs from run to run, whichever server it is.
_OWN = ((re.compile(r"/tmp/folder\w+"), "<folder of the load>"),)


def everything(message: Message) -> Message:
    return message


@dataclass(frozen=True)
class Outcome:
    """How a call ended, and its answers."""

    code: str
    message: str
    answers: Answers

    def codes_only(self) -> Outcome:
        return Outcome(self.code, "", ())


@dataclass(frozen=True)
class Step:
    """One call. `relation` says what of its outcome must be equal: of the whole, or of the code alone.

    `view` takes an answer's own parts (times) out before it is compared.
    """

    method: str
    requests: tuple[Message, ...]
    relation: str = "same"
    view: Callable[[Message], Message] = everything
    metadata: tuple[tuple[str, str], ...] = ()
    compression: grpc.Compression = grpc.Compression.NoCompression


@dataclass(frozen=True)
class Case:
    """Calls one after the other, under a name."""

    name: str
    steps: tuple[Step, ...]


def call(method: str, request: Message, **options: object) -> Step:
    return Step(method, (request,), **options)  # type: ignore[arg-type]


def infer(request: pb.ModelInferRequest, **options: object) -> Step:
    return call("ModelInfer", request, **options)


def stream(*requests: pb.ModelInferRequest, **options: object) -> Step:
    return Step("ModelStreamInfer", requests, **options)  # type: ignore[arg-type]


def one(name: str, *steps: Step) -> Case:
    return Case(name, steps)


def each(prefix: str, pairs: Iterator[tuple[str, pb.ModelInferRequest]]) -> Iterator[Case]:
    """Each request as a case of its own, sent alone and on a stream."""
    for name, request in pairs:
        yield one(f"{prefix}, {name}", infer(request))
        yield one(f"{prefix}, {name}, streamed", stream(request))


def send(server: KServeProcess, step: Step) -> Outcome:
    answers: list[object] = []
    method = getattr(server.stub, step.method)
    options = {"timeout": TIMEOUT_S, "metadata": step.metadata, "compression": step.compression}
    try:
        if step.method == "ModelStreamInfer":
            for answer in method(iter(step.requests), **options):
                answers.append(_shown(step.view(answer)))
        else:
            answers.append(_shown(step.view(method(step.requests[0], **options))))
        if step.method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            eventually(lambda: _settled(server), timeout_s=TIMEOUT_S, what="models to have ended")
    except grpc.RpcError as error:
        return _of(step, Outcome(error.code().name, _without_own(error.details() or ""), tuple(answers)))
    return _of(step, Outcome("OK", "", tuple(answers)))


def _settled(server: KServeProcess) -> bool:
    """An unload is answered before the model has ended, and so is a load before what it replaces has."""
    models = server.stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S).models
    return not any(model.state in ("LOADING", "UNLOADING") for model in models)


def _of(step: Step, outcome: Outcome) -> Outcome:
    return outcome if step.relation == "same" else outcome.codes_only()


def _shown(message: Message) -> object:
    """The message, with what is the server's own taken out of the errors of a stream."""
    if isinstance(message, pb.ModelStreamInferResponse) and message.error_message:
        message.error_message = _without_own(message.error_message)
    return message


def _without_own(text: str) -> str:
    for pattern, replacement in _OWN:
        text = pattern.sub(replacement, text)
    return text


def differences(pair: Pair, case: Case, before: Iterable[Case] = ()) -> list[str]:
    """The steps of a case whose outcomes differ; all are sent, one after the other to both.

    Where `tritonserver` ends, both start anew and are sent `before`, the cases that this one builds on, and then it.
    """
    for _ in range(TRIES):
        if pair.restart_after_a_crash():
            for earlier in before:
                _compare(pair, earlier)
        found, code = _compare(pair, case)
        if not found or pair.theirs.survives(code):
            break
    return found


def _compare(pair: Pair, case: Case) -> tuple[list[str], str]:
    """The steps whose outcomes differ, and the code with which theirs ended the last one that it answered."""
    found = []
    code = ""
    for number, step in enumerate(case.steps):
        mine, other = send(pair.ours, step), send(pair.theirs, step)
        if mine != other:
            found.append(f"step {number}, {step.method}:\n  here:  {mine}\n  there: {other}")
        code = other.code
    return found, code
