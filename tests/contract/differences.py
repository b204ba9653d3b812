"""What is answered otherwise than by `tritonserver`, with the reason; each is tried against both servers.

`python -m tests.contract.differences` writes docs/guides/differences.md.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import service_pb2 as pb

from tests.contract.corpus_control import log
from tests.contract.corpus_infer import numbers
from tests.contract.exchange import call, infer, send, stream
from tests.integration.ingress.kserve_cases import infer_request, typed_request
from tests.integration.ingress.kserve_servers import KServeProcess
from tests.integration.ingress.test_kserve_bad_requests import STRICTER

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "differences.md"


@dataclass(frozen=True)
class Difference:
    """`probe` shows it on a server: its text must match `ours` here and `theirs` there (regular expressions)."""

    what: str
    here: str
    there: str
    why: str
    probe: Callable[[KServeProcess], str]
    ours: str
    theirs: str


def _said(server: KServeProcess, *steps: object) -> str:
    outcomes = [send(server, step) for step in steps]  # type: ignore[arg-type]
    return "\n".join(f"{outcome.code}: {outcome.message} {outcome.answers}" for outcome in outcomes)


def _shared(name: str, offset: int) -> Callable[[KServeProcess], str]:
    """A region of a segment of three pages, from `offset`."""

    def probe(server: KServeProcess) -> str:
        key = f"/mesh_contract_{uuid.uuid4().hex}"
        segment = Path("/dev/shm") / key.removeprefix("/")
        segment.write_bytes(bytes(3 * 4096))
        try:
            request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=64)
            said = _said(server, call("SystemSharedMemoryRegister", request))
            send(server, call("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=name)))
            return said
        finally:
            segment.unlink()

    return probe


def _stricter(name: str) -> Callable[[KServeProcess], str]:
    return lambda server: _said(server, infer(STRICTER[name][0]))


def _told_timeout(server: KServeProcess) -> str:
    """Whether a model is told of a timeout that only the call has."""
    request = infer_request("asking", [("INPUT0", "FP32", (1,))], (bytes(4),))
    return str(server.stub.ModelInfer(request, timeout=60).raw_output_contents[0] != bytes(4)).lower()


def _classified(model: str, datatype: str, count: int) -> pb.ModelInferRequest:
    request = infer_request(model, [("INPUT0", datatype, (1, 4))], (bytes(16),), ["OUTPUT0"])
    request.outputs[0].parameters["classification"].int64_param = count
    return request


def _partial_log(server: KServeProcess) -> str:
    """An update of which the second half is wrong."""
    try:
        return _said(server, log(log_info=True, log_format="nope"), log())
    finally:
        send(server, log(log_info=False))


DIFFERENCES = (
    Difference(
        what="the stack of a model's Python error",
        here="logged; the message names the log entry",
        there="sent to the client",
        why="files and code of the server are not the client's",
        probe=lambda server: _said(server, infer(numbers("failing", [1]))),
        ours=r"^INTERNAL: .*own words \(logged as [0-9a-f]{16}\)",
        theirs=r"(?s)^INTERNAL: .*own words.*At:\n.*model\.py",
    ),
    Difference(
        what="the metadata `triton_grpc_error`, and a request that no model was given",
        here="ends the stream with the error's code",
        there="a message with the error, and the stream goes on",
        why="the metadata asks for codes",
        probe=lambda server: _said(server, stream(numbers("nope", [1]), metadata=(("triton_grpc_error", "true"),))),
        ours=r"^NOT_FOUND: ",
        theirs=r"^OK: .*error_message",
    ),
    Difference(
        what="a version that is no number",
        here="the message ends after the reason",
        there="followed by `(details: stol)`",
        why="the name of a C++ function helps nobody",
        probe=lambda server: _said(server, infer(numbers("id_fp32", [1], version="x"))),
        ours=r"^INVALID_ARGUMENT: (?!.*stol)",
        theirs=r"^INVALID_ARGUMENT: .*\(details: stol\)",
    ),
    Difference(
        what="a version that only begins with a number (`1.0`)",
        here="INVALID_ARGUMENT",
        there="what follows is ignored",
        why="whoever writes 1.5 does not mean 1",
        probe=lambda server: _said(server, infer(numbers("id_fp32", [1], version="1.0"))),
        ours=r"^INVALID_ARGUMENT: ",
        theirs=r"^OK: ",
    ),
    Difference(
        what="a shape of more bytes than can be addressed",
        here="INVALID_ARGUMENT",
        there="multiplied without looking: passes for one of few bytes",
        why="a backend would read or write what is not there",
        probe=_stricter("shape overflows"),
        ours=r"^INVALID_ARGUMENT: .*more elements",
        theirs=r"^OK: ",
    ),
    Difference(
        what="a string that is said to be longer than its bytes",
        here="INVALID_ARGUMENT, where it is",
        there="given to the model",
        why="a length that lies must not reach a backend",
        probe=_stricter("string longer than the bytes"),
        ours=r"^INVALID_ARGUMENT: .*only 2 are left",
        theirs=r"^OK: ",
    ),
    Difference(
        what="more raw contents than inputs",
        here="INVALID_ARGUMENT",
        there="the rest is ignored",
        why="whoever sends them means something by it",
        probe=_stricter("more raw inputs than inputs"),
        ours=r"^INVALID_ARGUMENT: .*expected 1 raw_input_contents",
        theirs=r"^OK: ",
    ),
    Difference(
        what="text with NUL bytes",
        here="INVALID_ARGUMENT",
        there="ends at the first one",
        why="`model\\0x` is not `model`",
        probe=_stricter("name with NUL"),
        ours=r"^INVALID_ARGUMENT: .*NUL",
        theirs=r"^OK: ",
    ),
    Difference(
        what="a typed value that does not fit its datatype (300 as INT8)",
        here="INVALID_ARGUMENT",
        there="cut to its lowest bits",
        why="the model would compute with another number than was sent",
        probe=lambda server: _said(server, infer(typed_request("id_int8", "INT8", (1,), int_contents=[300]))),
        ours=r"^INVALID_ARGUMENT: .*300",
        theirs=r"^OK: ",
    ),
    Difference(
        what="the deadline of a call",
        here="is the request's timeout in Triton's queues too, unless the request names a shorter one",
        there="ends the call, and its request is cancelled",
        why="a request that nobody waits for should not wait in a queue",
        probe=_told_timeout,
        ours=r"true",
        theirs=r"false",
    ),
    Difference(
        what="a classification of 0 or -1",
        here="the message says that at least 1 is expected",
        there="the message says `expected >= 0`, but 0 is refused",
        why="the message should be right",
        probe=lambda server: _said(server, infer(_classified("labels", "FP32", 0))),
        ours=r"^INVALID_ARGUMENT: .*expected >= 1",
        theirs=r"^INVALID_ARGUMENT: .*expected >= 0",
    ),
    Difference(
        what="a classification of 2^32 and more",
        here="as many classes as there are",
        there="cut to 32 bits: none",
        why="the number is one of 64 bits",
        probe=lambda server: _said(server, infer(_classified("labels", "FP32", 2**32))),
        ours=r"(?s)shape: 1.*shape: 4",
        theirs=r"(?s)shape: 1.*shape: 0",
    ),
    Difference(
        what="a region of shared memory that does not begin at a page",
        here="fine",
        there="INVALID_ARGUMENT",
        why="only whole pages can be mapped, but nobody need know",
        probe=_shared("contract", 100),
        ours=r"^OK: ",
        theirs=r"^INVALID_ARGUMENT: ",
    ),
    Difference(
        what="a region of shared memory without a name",
        here="INVALID_ARGUMENT",
        there="may be registered",
        why="the empty name stands for all regions in the other calls",
        probe=_shared("", 0),
        ours=r"^INVALID_ARGUMENT: ",
        theirs=r"^OK: ",
    ),
    Difference(
        what="an update of the log's settings of which a part is wrong",
        here="changes nothing",
        there="what stands before the wrong part is changed",
        why="a refused call should leave things as they were",
        probe=_partial_log,
        ours=r"(?s)^INVALID_ARGUMENT: .*nope.*log_info\"\s+value \{\s+bool_param: false",
        theirs=r"(?s)^INVALID_ARGUMENT: .*nope.*log_info\"\s+value \{\s+bool_param: true",
    ),
)

# Not seen in an answer, or not of a server with these options; tried by the tests that are named.
OTHER = (
    (
        "load and unload where they are not allowed",
        "UNAVAILABLE with the option that allows them; the extension `model_repository` is not announced",
        "UNAVAILABLE; announced",
        "a client should learn what to ask for",
        "tests/integration/ingress/test_kserve_control.py",
    ),
    (
        "calls that wait for a load",
        "at most 16, then RESOURCE_EXHAUSTED; one model at a time; dropped when the client goes away",
        "one thread for each, without end",
        "each may hold whole model files",
        "tests/integration/ingress/test_kserve_control.py",
    ),
    (
        "a classification of strings",
        "INVALID_ARGUMENT",
        "the whole server ends",
        "no request may end a server",
        "tests/integration/ingress/test_kserve_bad_requests.py",
    ),
    (
        "stopping after a load failed of a model that was loaded before",
        "within a second or two",
        "takes the whole exit timeout, and fails",
        "Triton 2.51 waits for what it keeps of the failed load",
        "tests/integration/ingress/test_kserve_control.py",
    ),
    (
        "traces that are not written yet",
        "at most 1 MiB in memory; at most 1 GiB in all files of a process, then tracing ends",
        "in memory until the server ends; without end",
        "everything is bounded",
        "cpp_ext/tests/ingress/trace_settings_test.cc",
    ),
    (
        "GRPC_WAITREAD_START in a trace",
        "left out",
        "when the server began to wait for the request",
        "nobody waits here: a message is there as a whole when its call begins",
        "tests/contract/test_traces.py",
    ),
    (
        "an answer without elements from the response cache, on a stream",
        "the answer",
        "an error: response output count mismatch",
        "it is the answer",
        "tests/contract/test_response_cache.py",
    ),
    (
        "the W3C trace context (`traceparent`, `tracestate`) of a request",
        "in the request's record of Triton's trace, and the trace id in the log's records of a request that failed",
        "ignored in the mode triton; in the mode opentelemetry the parent of what is exported",
        "the mode triton is the one that is here, and a request should be found by its caller's trace",
        "tests/contract/test_traces.py",
    ),
    (
        "the log's format at the start",
        "ISO8601",
        "default",
        "dates without a year help nobody",
        "tests/contract/conftest.py",
    ),
    (
        "shared memory for clients of other hosts",
        "PERMISSION_DENIED",
        "allowed",
        "a region shows memory of this host to whoever may ask a model",
        "tests/integration/ingress/test_kserve_shared_memory.py",
    ),
)

_HEAD = """\
# Where a replica answers otherwise than `tritonserver`

Written by `python -m tests.contract.differences`. `tests/contract` sends one corpus of requests to both and compares
the answers field by field: what is not listed here is the same. A row of the first table fails its test when the
difference is gone.

"""


def page() -> str:
    """docs/guides/differences.md"""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD.rstrip("\n")
    yield ""
    yield "| what | here | there | why |"
    yield "| --- | --- | --- | --- |"
    for entry in DIFFERENCES:
        yield f"| {entry.what} | {entry.here} | {entry.there} | {entry.why} |"
    yield ""
    yield "What a request to these two servers cannot show:"
    yield ""
    yield "| what | here | there | why | tried by |"
    yield "| --- | --- | --- | --- | --- |"
    for what, here, there, why, tried in OTHER:
        yield f"| {what} | {here} | {there} | {why} | `{tried}` |"


if __name__ == "__main__":
    PAGE.write_text(page())
