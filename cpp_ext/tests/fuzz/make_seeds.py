"""Writes the seeds of the fuzzing targets (target.h): small right inputs, from which mutations find their way.

Run with `.venv/bin/python cpp_ext/tests/fuzz/make_seeds.py`; what it writes is committed.
"""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import zlib
from pathlib import Path

from tritonclient.grpc import service_pb2

SEEDS = Path(__file__).resolve().parent / "seeds"


def frame(message: bytes, *, packed: bool = False) -> bytes:
    return struct.pack(">BI", packed, len(message)) + message


def grpc_stream() -> dict[str, bytes]:
    text = b"a message that repeats itself, repeats itself, repeats itself"
    zipped, deflated = gzip.compress(text, mtime=0), zlib.compress(text)
    return {
        "plain": b"\0\1" + frame(b"") + frame(text) + frame(b"x"),
        "gzip": b"\1\2" + frame(zipped, packed=True) + frame(text),
        "gzip_empty": b"\1\2" + frame(gzip.compress(b"", mtime=0), packed=True),
        "gzip_two_members": b"\1\2" + frame(zipped + zipped, packed=True),
        "deflate": b"\2\3" + frame(deflated, packed=True),
        "bomb": b"\1\4" + frame(gzip.compress(bytes(1 << 17), mtime=0), packed=True),
        "cut": b"\0\5" + frame(text)[:20],
        "too_long": b"\0\6" + struct.pack(">BI", 0, 1 << 31),
    }


def grpc_headers() -> dict[str, bytes]:
    good = ":method:POST\n:path:/a.B/C\nte:trailers\ncontent-type:application/grpc+proto\n"
    return {
        "good": (good + "grpc-timeout:100m\ngrpc-encoding:gzip\ngrpc-accept-encoding:identity, gzip").encode(),
        "metadata": (good + "x-own:1\nx-own-bin:AAEC,/w==\nuser-agent:me").encode(),
        "bad": b":method:GET\n:path:\ngrpc-timeout:1x\ngrpc-encoding:snappy\nx-bin:*",
    }


def infer_request() -> dict[str, bytes]:
    raw = service_pb2.ModelInferRequest(model_name="m", model_version="1", id="request")
    for name, value in {"sequence_id": 7, "sequence_start": True, "text": "value"}.items():
        field = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(raw.parameters[name], field, value)
    raw.parameters["ratio"].double_param = 0.5
    raw.inputs.add(name="A", datatype="FP32", shape=[1, 2]).parameters["p"].uint64_param = 1
    raw.outputs.add(name="B").parameters["classification"].int64_param = 3
    raw.raw_input_contents.append(struct.pack("<2f", 1, 2))
    typed = service_pb2.ModelInferRequest(model_name="m")
    contents = {
        "BOOL": {"bool_contents": [True, False]},
        "INT8": {"int_contents": [-1, 1]},
        "INT64": {"int64_contents": [-1, 1 << 40]},
        "UINT16": {"uint_contents": [1, 65535]},
        "UINT64": {"uint64_contents": [1 << 63]},
        "FP32": {"fp32_contents": [1.5]},
        "FP64": {"fp64_contents": [1.5]},
        "BYTES": {"bytes_contents": [b"", b"text"]},
    }
    for datatype, values in contents.items():
        typed.inputs.add(
            name=datatype, datatype=datatype, shape=[2], contents=service_pb2.InferTensorContents(**values)
        )
    shared = service_pb2.ModelInferRequest(model_name="m")
    parameters = shared.inputs.add(name="A", datatype="UINT8", shape=[4]).parameters
    parameters["shared_memory_region"].string_param = "region"
    parameters["shared_memory_byte_size"].int64_param = 4
    return {
        "raw": raw.SerializeToString(deterministic=True),
        "typed": typed.SerializeToString(deterministic=True),
        "shared": shared.SerializeToString(deterministic=True),
        "config": service_pb2.ModelConfigRequest(name="m", version="1").SerializeToString(),
        "cut_before_a_bool": b"\x10\x01\x10",
        "index": service_pb2.RepositoryIndexRequest(ready=True).SerializeToString(),
    }


def http_connection() -> dict[str, bytes]:
    infer = b"POST /v2/models/m/versions/1/infer?a=b HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 2\r\n"
    chunks = b"Transfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    large = 70_000
    return {
        "sized": b"\1" + infer + b"Content-Length: 5\r\n\r\nhello",
        "chunked": b"\2" + infer + chunks,
        "pipelined": b"\3GET /v2 HTTP/1.1\r\n\r\nGET http://h:1/v2/health/live HTTP/1.0\r\n\r\nPUT / HTTP/1.1\r\n\r\n",
        "expects": b"\4" + infer + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        "encoded": b"\5GET /v2/models/a%2Fb%00/stats HTTP/1.1\r\nConnection: close\r\n\r\n",
        "large": b"\6" + infer + b"Content-Length: %d\r\n\r\n" % large + b"x" * large,
        "smuggled": b"\7" + infer + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "bad": b"\x08GET / HTTP/9.9\r\nBad Name: x\r\n\r\n",
    }


def rest_body(request: dict[str, object] | str, binary: bytes = b"") -> bytes:
    text = (request if isinstance(request, str) else json.dumps(request, separators=(",", ":"))).encode()
    return struct.pack("<H", len(text)) + text + binary


def rest_infer() -> dict[str, bytes]:
    shape = {"name": "A", "shape": [1, 2], "datatype": "FP32"}
    values = {
        "BOOL": [True, False],
        "INT8": [-1, 300],
        "UINT64": [0, 2**64 - 1],
        "FP64": [[0.5], [1e308]],
        "BYTES": ["a", "\u00e4"],
    }
    typed = [{"name": n, "shape": [2], "datatype": n, "data": data} for n, data in values.items()]
    memory = {"shared_memory_region": "r", "shared_memory_offset": 1, "shared_memory_byte_size": 8}
    outputs = [
        {"name": "B", "parameters": {"binary_data": True}},
        {"name": "C", "parameters": {"classification": 2}},
        {"name": "D", "parameters": memory},
    ]
    parameters = {"sequence_id": "s", "sequence_start": True, "priority": 1, "timeout": 5, "own": 1.5}
    request = {"id": "i", "parameters": parameters, "inputs": [{**shape, "data": [[1, 2.5]]}], "outputs": outputs}
    binary = {"inputs": [{**shape, "parameters": {"binary_data_size": 8}}], "parameters": {"binary_data_output": True}}
    return {
        "json": rest_body(request),
        "typed": rest_body({"inputs": typed}),
        "binary": rest_body(binary, struct.pack("<2f", 1, 2)),
        "shared": rest_body({"inputs": [{**shape, "parameters": memory}]}),
        "numbers": rest_body('{"inputs":[{"name":"A","shape":[3],"datatype":"FP32","data":[NaN,-Infinity,1e999]}]}'),
        "nested": rest_body('{"inputs":[{"name":"A","shape":[1],"datatype":"INT32","data":[[[[[[[[1]]]]]]]]}]}'),
        "unicode": rest_body('{"id":"\\u0000\\ud800","inputs":[]}'),
    }


def json_answer() -> dict[str, bytes]:
    statistics = {
        "name": "m",
        "version": "1",
        "last_inference": 1,
        "inference_stats": {"success": {"count": 1, "ns": 2}},
    }
    model = {
        "name": "m",
        "max_batch_size": 4,
        "input": [{"name": "A", "data_type": "TYPE_FP32", "dims": ["-1", 3], "reshape": {"shape": []}}],
        "instance_group": [{"kind": "KIND_CPU", "count": 2}],
        "dynamic_batching": {"max_queue_delay_microseconds": 5, "priority_queue_policy": {"1": {"max_queue_size": 2}}},
        "parameters": {"key": {"string_value": "value"}},
        "model_warmup": [{"name": "w", "inputs": {"A": {"dims": [1], "zero_data": False}}}],
        "version_policy": {"latest": {"num_versions": 1}},
    }
    metadata = {"name": "m", "versions": ["1"], "inputs": [{"name": "A", "datatype": "FP32", "shape": [-1, 2]}]}
    return {
        "config": b"\0" + json.dumps(model).encode(),
        "server": b"\1" + json.dumps({"name": "triton", "version": "2", "extensions": ["a", "b"]}).encode(),
        "metadata": b"\2" + json.dumps(metadata).encode(),
        "statistics": b"\3" + json.dumps({"model_stats": [statistics]}).encode(),
        "index": b"\4" + json.dumps([{"name": "m", "version": "1", "state": "READY"}]).encode(),
    }


def main() -> None:
    shutil.rmtree(SEEDS, ignore_errors=True)
    for make in (grpc_stream, grpc_headers, infer_request, http_connection, rest_infer, json_answer):
        folder = SEEDS / make.__name__
        folder.mkdir(parents=True)
        for name, seed in make().items():
            (folder / name).write_bytes(seed)


if __name__ == "__main__":
    main()
