"""REST requests, good and bad, that the ingress must answer as `tritonserver` does."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

INFER = "/v2/models/id_fp32/infer"
BINARY_LENGTH = "Inference-Header-Content-Length"
TWO_FLOATS = struct.pack("<2f", 1, 2.5)


@dataclass(frozen=True)
class RestRequest:
    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


Cases = Iterator[tuple[str, RestRequest]]


def tensor(**changes: object) -> dict[str, Any]:
    return {"name": "INPUT0", "datatype": "FP32", "shape": [2], "data": [1, 2.5], **changes}


def post(path: str, body: object, **headers: str) -> RestRequest:
    return RestRequest("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)


def infer(body: object = None, *, model: str = "id_fp32", **top: object) -> RestRequest:
    return post(f"/v2/models/{model}/infer", body if body is not None else {"inputs": [tensor()], **top})


def binary(request: object, data: bytes, *, length: object = None, model: str = "id_fp32") -> RestRequest:
    """A request with tensors behind its JSON."""
    head = json.dumps(request).encode()
    headers = {BINARY_LENGTH: str(len(head) if length is None else length)}
    return RestRequest("POST", f"/v2/models/{model}/infer", head + data, headers)


def _paths() -> Cases:
    gets = ["/v2/health/live", "/v2/health/ready", "/nope", "/v2/", "/v2x", "/v2/health", "/v2/health/", "/v2/models"]
    gets += ["/v2/models/", "/v2/models//ready", "/v2/models/id_fp32/nope", "/v2/models/id_fp32/infer/x", "/"]
    for model in ("id_fp32", "rich", "two", "decoupled", "nope"):
        for version in ("", "/versions/1", "/versions/2", "/versions/9", "/versions/0"):
            gets += [f"/v2/models/{model}{version}{what}" for what in ("", "/ready", "/config")]
    gets += ["/v2/models/id_fp32/versions/x/ready", "/v2/models/id_fp32/versions", "/v2/models/nope/stats"]
    gets += ["/v2/models/id_fp32/versions/9/stats", "/v2/systemsharedmemory/status", "/v2/cudasharedmemory/status"]
    gets += ["/v2/systemsharedmemory/region/x/status", "/v2/cudasharedmemory/region/x/status", INFER]
    gets += ["/v2/models/id_fp32/versions/1/trace/setting", "/v2/repository/index", "/v2/models/id_fp32/generate"]
    for path in gets:
        yield f"GET {path}", RestRequest("GET", path)
    for path in ("/v2", "/v2/health/live", "/v2/models/id_fp32", "/v2/models/id_fp32/ready", "/v2/models/stats"):
        yield f"POST {path}", RestRequest("POST", path)
    for path in ("/v2/systemsharedmemory/unregister", "/v2/systemsharedmemory/region/x/unregister"):
        yield f"POST {path}", RestRequest("POST", path)
    for path in ("/v2/cudasharedmemory/unregister", "/v2/systemsharedmemory/register", "/v2/cudasharedmemory/register"):
        yield f"POST {path}", RestRequest("POST", path)
    yield "PUT", RestRequest("PUT", "/v2/health/live")
    yield "query", RestRequest("GET", "/v2/health/live?x=%20/y")


def _control() -> Cases:
    index = "/v2/repository/index"
    for name, body in (("all", b""), ("ready", {"ready": True}), ("number", {"ready": 1}), ("rubbish", b"xx")):
        yield f"index {name}", post(index, body)
    yield "index of a named repository", post("/v2/repository/some/index", b"")
    region = "/v2/systemsharedmemory/region/r/register"
    bodies: list[object] = [{"key": "no such", "byte_size": 10}, {"byte_size": 10}, {"key": "a"}, b"zz", [], {}]
    bodies += [{"key": 1, "byte_size": 2}, {"key": "a", "byte_size": -1}, {"key": "a", "byte_size": 1, "offset": "x"}]
    for number, body in enumerate(bodies):
        yield f"register {number}", post(region, body)


def _documents() -> Cases:
    texts = [b"{}", b"[]", b"5", b"xx", b"[1,2", b'{"a":1}x', b'{"a" 1}', b'{"a":}', b"{1:2}", b"nul", b'"\\x"', b" "]
    texts += [
        b'{"inputs":[{}]}',
        b'{"inputs":[1]}',
        b'{"inputs":[]}',
        b'{"inputs":5}',
        b'{"id":1,"inputs":[]}',
        b"\xff",
    ]
    texts += [
        b"[" * 50_000,
        b'{"inputs":[],"x":' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"inputs":[],"inputs":5}',
        b"[1,]",
    ]
    for number, text in enumerate(texts):
        yield f"document {number} {text[:20]!r}", infer(text)
    for name, text in (("not a number", "NaN"), ("infinite", "-Infinity"), ("too big", "1e400"), ("tiny", "1e-50")):
        body = f'{{"inputs":[{{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[{text}]}}]}}'
        yield f"number {name}", infer(body.encode())
    yield "no body", RestRequest("POST", INFER)


def _tensors() -> Cases:
    changes: list[dict[str, object]] = [
        {},
        {"data": [[1], [2]]},
        {"data": [1]},
        {"data": [1, 2, 3]},
        {"data": ["a", 2]},
    ]
    changes += [
        {"shape": [-1]},
        {"shape": [0], "data": []},
        {"shape": "x"},
        {"shape": [1.5]},
        {"shape": []},
        {"name": 3},
    ]
    changes += [{"datatype": "FP99"}, {"datatype": "INT32"}, {"datatype": 5}, {"name": "zz"}, {"data": 5}, {"data": {}}]
    changes += [
        {"shape": [2, 1]},
        {"data": [[[1]], 2]},
        {"data": [None, 1]},
    ]
    changes += [
        {"parameters": {"binary_data_size": 8}},
        {"parameters": {"shared_memory_region": "x"}},
        {"parameters": 5},
    ]
    for number, change in enumerate(changes):
        yield f"tensor {number} {change}", infer({"inputs": [tensor(**change)]})
    twice = {"inputs": [tensor(), tensor()]}
    yield "an input twice", infer(twice)
    for size in (8, 4, 12, -1, "x"):
        bare = {"name": "INPUT0", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size}}
        yield f"binary without bytes {size}", infer({"inputs": [bare]})
    region = {"name": "INPUT0", "datatype": "FP32", "shape": [2], "parameters": {"shared_memory_region": "x"}}
    yield "unknown region", infer({"inputs": [region]})
    region["parameters"] = {"shared_memory_region": 5}
    yield "region of a number", infer({"inputs": [region]})


def _datatypes() -> Cases:
    values: dict[str, list[object]] = {
        "BOOL": [True, False],
        "FP32": [0.1, -2],
        "FP64": [0.1, 1e300],
        "BYTES": ["a", "é\0"],
    }
    for bits in (8, 16, 32, 64):
        values[f"INT{bits}"] = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]
        values[f"UINT{bits}"] = [0, 2**bits - 1]
    wrong: list[list[object]] = [[300, 1], [-1, 1], [1.0, 2], ["x", "y"], [True, 1], [2**64, 1], [None, None]]
    for datatype in (*values, "FP16", "BF16"):
        model = "id_string" if datatype == "BYTES" else f"id_{datatype.lower()}"
        for data in [values.get(datatype, [1, 2]), *wrong]:
            body = {"inputs": [{"name": "INPUT0", "datatype": datatype, "shape": [2], "data": data}]}
            yield f"{datatype} {data}", infer(body, model=model)


def _binary() -> Cases:
    bare = {"name": "INPUT0", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
    asked = {"name": "OUTPUT0", "parameters": {"binary_data": True}}
    yield "binary in", binary({"inputs": [bare]}, TWO_FLOATS)
    yield "binary both ways", binary({"inputs": [bare], "outputs": [asked]}, TWO_FLOATS)
    yield "binary, too few", binary({"inputs": [bare]}, TWO_FLOATS[:5])
    yield "binary, too many", binary({"inputs": [bare]}, TWO_FLOATS + b"1")
    yield "binary, length negative", binary({"inputs": [bare]}, TWO_FLOATS, length=-1)
    yield "binary, length beyond", binary({"inputs": [bare]}, TWO_FLOATS, length=9999)
    yield "binary, length short", binary({"inputs": [bare]}, TWO_FLOATS, length=5)
    yield "raw", RestRequest("POST", INFER, TWO_FLOATS, {BINARY_LENGTH: "0"})
    yield "raw, wrong size", RestRequest("POST", INFER, TWO_FLOATS[:5], {BINARY_LENGTH: "0"})
    yield "raw for two inputs", RestRequest("POST", "/v2/models/two/infer", TWO_FLOATS, {BINARY_LENGTH: "0"})
    yield "binary by default", infer(parameters={"binary_data_output": True})
    yield (
        "binary by default, asked for JSON",
        infer(parameters={"binary_data_output": True}, outputs=[{"name": "OUTPUT0"}]),
    )
    yield "data and binary", infer({"inputs": [{**bare, "data": [1, 2]}]})
    two = [
        {"name": "A", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
        {"name": "B", "datatype": "INT32", "shape": [2, 1], "data": [[3], [4]]},
    ]
    yield (
        "one of two binary",
        binary({"inputs": two, "outputs": [{"name": "OB"}, {**asked, "name": "OA"}]}, TWO_FLOATS, model="two"),
    )
    strings = {"name": "INPUT0", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}
    yield "strings", binary({"inputs": [strings], "outputs": [asked]}, b"\1\0\0\0x", model="id_string")
    half = {"name": "INPUT0", "datatype": "FP16", "shape": [2], "parameters": {"binary_data_size": 4}}
    yield "FP16 both ways", binary({"inputs": [half], "outputs": [asked]}, b"1234", model="id_fp16")
    yield "FP16 out as JSON", binary({"inputs": [half]}, b"1234", model="id_fp16")


def _parameters() -> Cases:
    values: list[object] = [1, -1, 2**63, 2**64 - 1, "x", True, 2.5, None, [1], {}]
    names = ["custom", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end", "binary_data_output"]
    for name in [*names, "triton_foo", "triton_enable_empty_final_response"]:
        for value in values:
            yield f"parameter {name} {value!r}", infer(parameters={name: value})
    yield "parameters of a number", infer(parameters=5)
    yield "request id", infer(id="abc")
    yield "request id in an error", infer({"id": "abc", "inputs": []})
    sequence = {"inputs": [tensor(shape=[1, 4], data=[1, 2, 3, 4])]}
    yield "sequence without id", infer(sequence, model="seq")
    yield "sequence", infer({**sequence, "parameters": {"sequence_id": 77, "sequence_start": True}}, model="seq")
    yield (
        "sequence of text",
        infer({**sequence, "parameters": {"sequence_id": "t", "sequence_start": True}}, model="seq"),
    )


def _outputs() -> Cases:
    outputs: list[object] = [
        5,
        [5],
        [{}],
        [{"name": 3}],
        [{"name": "nope"}],
        [],
        [{"name": "OUTPUT0"}],
        [{"name": "OUTPUT0"}] * 2,
    ]
    parameters: list[object] = [
        {"classification": 1},
        {"classification": 0},
        {"classification": "x"},
        {"classification": 9},
    ]
    parameters += [{"binary_data": 1}, {"binary_data": False}, {"shared_memory_region": "x"}, 5]
    parameters += [
        {"shared_memory_region": "x", "classification": 1},
        {"shared_memory_region": "x", "binary_data": True},
    ]
    outputs += [[{"name": "OUTPUT0", "parameters": each}] for each in parameters]
    for number, output in enumerate(outputs):
        yield f"outputs {number} {output}", infer(outputs=output)
    labels = {"inputs": [tensor(shape=[2, 4], data=[0.1, 0.7, 0.2, 0.3, 4, 3, 2, 1])]}
    for count in (1, 3, 9):
        asked = {"name": "OUTPUT0", "parameters": {"classification": count}}
        yield f"labels {count}", infer({**labels, "outputs": [asked]}, model="labels")
    asked = {"name": "OUTPUT0", "parameters": {"classification": 2, "binary_data": True}}
    yield "labels as bytes", infer({**labels, "outputs": [asked]}, model="labels")


def _models() -> Cases:
    for model in ("nope", "decoupled"):
        yield f"infer {model}", infer(model=model)
    yield (
        "infer a version",
        post("/v2/models/rich/versions/2/infer", {"inputs": [tensor(shape=[1, 4], data=[1, 2, 3, 4])]}),
    )
    yield "infer no such version", post("/v2/models/id_fp32/versions/7/infer", {"inputs": [tensor()]})
    yield "batch too large", infer({"inputs": [tensor(shape=[9, 16], data=[0] * 144)]}, model="fixed")
    yield "wrong dimension", infer({"inputs": [tensor(shape=[1, 15], data=[0] * 15)]}, model="fixed")


def _encodings() -> Cases:
    text = json.dumps({"inputs": [tensor()]}).encode()
    for name, body in (
        ("gzip", gzip.compress(text)),
        ("deflate", zlib.compress(text)),
        ("identity", text),
        ("br", text),
    ):
        yield f"content {name}", RestRequest("POST", INFER, body, {"Content-Encoding": name})
    for accept in ("gzip", "deflate", "identity", "br", "gzip;q=0.5, deflate", "gzip;q=0.5,deflate;q=0.4", "", "*"):
        yield f"accept {accept}", RestRequest("POST", INFER, text, {"Accept-Encoding": accept})


def _generate() -> Cases:
    bodies: list[tuple[str, object]] = [
        ("id_fp32", {"INPUT0": [1, 2]}),
        ("id_fp32", {"INPUT0": 1.5, "id": "x"}),
        ("id_fp32", {"INPUT0": 1.5, "id": 5}),
        ("id_fp32", {"INPUT0": 1.5, "parameters": {"a": 1, "sequence_id": "s", "timeout": "soon"}}),
        ("id_fp32", {"INPUT0": 1.5, "parameters": 5}),
        ("id_fp32", {"INPUT0": 1.5, "parameters": {"a": [1]}}),
        ("id_fp32", {"parameters": {"INPUT0": [1, 2]}}),
        ("id_fp32", {"INPUT0": "x"}),
        ("id_fp32", {"INPUT0": [[1, 2]]}),
        ("id_fp32", {"INPUT0": []}),
        ("id_fp32", {"INPUT0": [1, 2], "other": 1.5}),
        ("id_fp32", {"INPUT0": [1, 2], "other": None}),
        ("id_fp32", {}),
        ("id_fp32", []),
        ("id_fp32", b"xx"),
        ("id_fp16", {"INPUT0": [1]}),
        ("id_string", {"INPUT0": "hello"}),
        ("id_string", {"INPUT0": ["a", "b"]}),
        ("two", {"A": [1], "B": [1, 2, 3, 4]}),
        ("two", {"A": [1], "B": [1, 2, 3]}),
        ("fixed", {"INPUT0": [1] * 32}),
        ("fixed", {"INPUT0": [1] * 15}),
        ("nope", {}),
    ]
    for kind in ("generate", "generate_stream"):
        for model, body in bodies:
            yield f"{kind} {model} {body}", post(f"/v2/models/{model}/{kind}", body)
    for values in ([1, 2], [1, -2, 3], []):
        yield f"events {values}", post("/v2/models/repeat/generate_stream", {"INPUT0": values})


def cases() -> dict[str, RestRequest]:
    """All cases by name."""
    groups = (_paths, _control, _documents, _tensors, _datatypes, _binary, _parameters, _outputs, _models, _encodings)
    return {name: request for group in (*groups, _generate) for name, request in group()}
