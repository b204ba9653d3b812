"""Inference: datatypes, contents, versions, features of models, priorities, timeouts."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from tests.contract.exchange import Case, call, each, infer, one, stream
from tests.integration.ingress.kserve_cases import cases, elements, infer_request, typed_request

EMPTY_FINAL = "triton_enable_empty_final_response"

# The edges of each datatype, as its bytes.
EDGES: dict[str, bytes] = {
    "BOOL": bytes([0, 1]),
    **{
        f"{sign.upper()}INT{bits}": np.array(
            [np.iinfo(f"{sign}int{bits}").min, np.iinfo(f"{sign}int{bits}").max], dtype=f"{sign}int{bits}"
        ).tobytes()
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "FP16": np.array([np.nan, -np.inf, 65504, -0.0], dtype=np.float16).tobytes(),
    "BF16": bytes([0xC0, 0x7F, 0x80, 0xFF, 0x01, 0x00, 0x7F, 0x7F]),
    "FP32": np.array([np.nan, np.inf, np.finfo(np.float32).tiny, -0.0], dtype=np.float32).tobytes(),
    "FP64": np.array([np.nan, -np.inf, np.finfo(np.float64).max, 5e-324], dtype=np.float64).tobytes(),
    "BYTES": elements(b"", b"\0", b"\xff\xfe", "ß".encode(), b"x" * 3000),
}
_SIZES = {"BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2, "INT32": 4, "UINT32": 4}
_SIZES |= {"FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8}
# Where typed contents of a datatype go, with values at its edges.
_TYPED: dict[str, tuple[str, Sequence[object]]] = {
    "BOOL": ("bool_contents", [False, True]),
    "INT8": ("int_contents", [-128, 127]),
    "INT16": ("int_contents", [-32768, 32767]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 65535]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "FP32": ("fp32_contents", [float("inf"), -0.0, 1e-40]),
    "FP64": ("fp64_contents", [float("-inf"), 5e-324]),
    "BYTES": ("bytes_contents", [b"", b"\0\xff", b"x" * 3000]),
}


def model_of(datatype: str) -> str:
    return "id_string" if datatype == "BYTES" else f"id_{datatype.lower()}"


def numbers(model: str, values: Sequence[float], request_id: str = "", **options: object) -> pb.ModelInferRequest:
    raw = struct.pack(f"<{len(values)}f", *values)
    return infer_request(model, [("INPUT0", "FP32", (len(values),))], (raw,), request_id=request_id, **options)  # type: ignore[arg-type]


def with_parameters(request: pb.ModelInferRequest, **values: object) -> pb.ModelInferRequest:
    for key, value in values.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[key], kind, value)
    return request


def calls(model: str) -> pb.ModelInferRequest:
    """For a model that calls this one."""
    inputs = [("MODEL", "BYTES", (1,)), ("INPUT0", "FP32", (2,))]
    return infer_request("calling", inputs, (elements(model.encode()), b"\0" * 8))


def _datatypes() -> Iterator[tuple[str, pb.ModelInferRequest]]:
    for datatype, raw in EDGES.items():
        count = 5 if datatype == "BYTES" else len(raw) // _SIZES[datatype]
        yield f"{datatype} raw", infer_request(model_of(datatype), [("INPUT0", datatype, (count,))], (raw,))
        yield (
            f"{datatype} one too many",
            infer_request(model_of(datatype), [("INPUT0", datatype, (count - 1,))], (raw,)),
        )
        yield f"{datatype} none", infer_request(model_of(datatype), [("INPUT0", datatype, (0,))], (b"",))
        yield f"{datatype} negative dimension", infer_request(model_of(datatype), [("INPUT0", datatype, (-1,))], (raw,))
    for datatype, (field, values) in _TYPED.items():
        for end in range(1, len(values) + 1):
            request = typed_request(model_of(datatype), datatype, (end,), **{field: values[:end]})
            yield f"{datatype} typed, {end}", request
    for datatype in EDGES:
        yield f"{datatype} as another", infer_request("id_fp32", [("INPUT0", datatype, (4,))], (b"\0" * 16,))


def _versions() -> Iterator[tuple[str, pb.ModelInferRequest]]:
    for model in ("versions_newest", "versions_all", "versions_two_newest", "rich"):
        for version in ("", "1", "3", "7", "8", "007", "9223372036854775807"):
            request = (
                numbers(model, [1, 2, 3, 4]) if model != "rich" else infer_request(model, [("INPUT0", "FP32", (1, 4))])
            )
            request.model_version = version
            yield f"{model} version {version!r}", request


def _features() -> Iterator[tuple[str, pb.ModelInferRequest]]:
    yield "ensemble", numbers("chain", [1, 2], "e1")
    yield "ensemble, nothing", numbers("chain", [])
    yield "ensemble, unknown version", numbers("chain", [1], version="2")
    yield "warm model", numbers("warm", [1])
    yield "rate limited", numbers("limited", [1, 2])
    for shape in ((2, 1), (2,), (5, 1), (0, 1)):
        raw = b"\0\0\0\0" * int(np.prod(shape))
        yield f"reshaped {shape}", infer_request("reshaped", [("INPUT0", "FP32", shape)], (raw,))
    both = [("A", "FP32", (2,)), ("B", "FP32", (3,))]
    yield "optional input given", infer_request("optional", both, (b"\0" * 8, b"\0" * 12))
    yield "optional input left out", infer_request("optional", both[:1], (b"\0" * 8,), ["OA"])
    yield "only the optional input", infer_request("optional", both[1:], (b"\0" * 12,))
    for name in ("id_fp32", "nope", "chain", "decoupled", ""):
        yield f"calls {name or 'nothing'}", calls(name)
    yield "telling", numbers("telling", [1], "t1")
    yield "telling of parameters", with_parameters(numbers("telling", [1], "t2"), a=1, b="x", c=True, d=2.5)
    yield "telling of a timeout", with_parameters(numbers("telling", [1]), timeout=12345678)
    yield "telling of an unsigned parameter", _unsigned(numbers("telling", [1]))
    for priority in (0, 1, 3, 4, 2**31):
        request = with_parameters(infer_request("queue", [("INPUT0", "FP32", (1, 4))]), priority=priority)
        yield f"priority {priority}", request
    for count in (1, 4, 5, 2**31):
        request = infer_request(
            "labels", [("INPUT0", "FP32", (1, 4))], (struct.pack("<4f", 0.5, 2, 2, -1),), ["OUTPUT0"]
        )
        request.outputs[0].parameters["classification"].int64_param = count
        yield f"classes {count}", request


def _unsigned(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    request.parameters["u"].uint64_param = 2**63
    return request


def _streams() -> Iterator[Case]:
    for count in (0, 1, 5):
        values = list(range(count))
        yield one(f"decoupled, {count}", stream(numbers("repeat", values, "r")))
        final = with_parameters(numbers("repeat", values, "r"), **{EMPTY_FINAL: True})
        yield one(f"decoupled, {count}, empty final", stream(final))
    yield one("decoupled, an error inside", stream(numbers("repeat", [1, -1, 2], "r")))
    yield one("decoupled, unary", infer(numbers("repeat", [1])))
    for flag in (1, "true", 1.5):
        request = with_parameters(numbers("id_fp32", [1]), **{EMPTY_FINAL: flag})
        yield one(f"empty final as {type(flag).__name__}", infer(request), stream(request))
    several = [numbers("id_fp32", [n], str(n)) for n in range(30)]
    yield one("thirty on one stream", stream(*several))
    mixed = [
        numbers("id_fp32", [1], "a"),
        numbers("chain", [1], "b"),
        numbers("nope", [1], "c"),
        numbers("telling", [1], "d"),
    ]
    yield one("models of all kinds on one stream", stream(*mixed))
    for value in ("true", "false", "1"):
        code = (("triton_grpc_error", value),)
        yield one(f"error codes {value}", stream(calls("nope"), metadata=code))
    # The first one runs, so the second one waits for longer than it may.
    late = with_parameters(infer_request("queue", [("INPUT0", "FP32", (1, 4))], request_id="late"), timeout=1000)
    first = infer_request("queue", [("INPUT0", "FP32", (1, 4))], request_id="first")
    yield one("timeout in the queue", stream(first, late))
    delayed = with_parameters(late.__class__.FromString(late.SerializeToString()), priority=3)
    yield one("timeout that only delays", stream(first, delayed))


def _sequences() -> Iterator[Case]:
    def step(model: str, value: int, number: object, **flags: bool) -> pb.ModelInferRequest:
        raw = struct.pack("<i", value)
        request = infer_request(model, [("INPUT0", "INT32", (1, 1))], (raw,))
        return with_parameters(request, sequence_id=number, **{f"sequence_{key}": flag for key, flag in flags.items()})

    for model in ("adding_direct", "adding_oldest"):
        whole = [step(model, 5, 11, start=True), step(model, 7, 11), step(model, -2, 11, end=True)]
        yield one(f"{model}, one after the other", *[infer(request) for request in whole])
        yield one(f"{model}, on a stream", stream(*whole))
        yield one(f"{model}, ended", infer(step(model, 1, 11)))
        yield one(f"{model}, started and ended at once", infer(step(model, 1, 12, start=True, end=True)))
        restarted = [step(model, 1, 13, start=True), step(model, 2, 13, start=True), step(model, 3, 13, end=True)]
        yield one(f"{model}, started again", *[infer(request) for request in restarted])
        two = [step(model, 1, 14, start=True), step(model, 10, 15, start=True), step(model, 2, 14, end=True)]
        yield one(f"{model}, two at a time", *[infer(request) for request in [*two, step(model, 20, 15, end=True)]])
        yield one(f"{model}, number 0", infer(step(model, 1, 0, start=True)))
        yield one(f"{model}, a text as number", infer(step(model, 1, "text", start=True)))
        yield one(f"{model}, the longest number", infer(step(model, 1, 2**63 - 1, start=True, end=True)))
    long_text = with_parameters(
        infer_request("seq", [("INPUT0", "FP32", (1, 4))]), sequence_id="x" * 129, sequence_start=True
    )
    yield one("a long text as number", infer(long_text))


def _compression() -> Iterator[Case]:
    large = numbers("id_fp32", [1.5] * 20000)
    for kind in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        yield one(f"{kind.name}, unary", infer(large, compression=kind))
        yield one(f"{kind.name}, streamed", stream(large, large, compression=kind))
        yield one(f"{kind.name}, an error", infer(numbers("nope", [1]), compression=kind))


def times_out(message: pb.ModelStatisticsResponse) -> pb.ModelStatisticsResponse:
    """Without times, but for whether there are any."""

    def durations(part: object) -> None:
        for field, value in part.ListFields():  # type: ignore[attr-defined]
            if field.message_type is None:
                continue
            if field.message_type.GetOptions().map_entry:
                for entry in value.values():
                    durations(entry)
            elif field.message_type.name == "StatisticDuration":
                value.ns = min(value.ns, 1)
            else:
                for entry in value if field.is_repeated else [value]:
                    durations(entry)

    durations(message)
    for model in message.model_stats:
        model.last_inference = min(model.last_inference, 1)
    return message


def _statistics() -> Iterator[Case]:
    def look(name: str, version: str = "") -> object:
        return call("ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version), view=times_out)

    bad = infer_request("counted", [("INPUT0", "FP32", (3,))])
    counted = [infer(numbers("counted", [1])), infer(numbers("counted", [1, 2])), infer(bad), look("counted")]
    yield one("statistics of a model", look("counted"), *counted)
    sizes = (1, 3, 1, 8)
    batches = [infer_request("counted_batches", [("INPUT0", "FP32", (n, 4))], (b"\0" * 16 * n,)) for n in sizes]
    yield one("statistics by batch size", *[infer(request) for request in batches], look("counted_batches"))
    yield one("statistics of a version", look("versions_all", "3"), look("versions_all", "8"), look("nope"))
    yield one("statistics of a warm model", look("warm"))


def infer_cases() -> Iterator[Case]:
    for name, request in cases().items():
        yield one(f"request, {name}, streamed", stream(request))
    yield from each("datatype", _datatypes())
    yield from each("version", _versions())
    yield from each("feature", _features())
    for group in (_streams, _sequences, _compression, _statistics):
        yield from group()
