"""Requests, good and bad, that the ingress must answer as `tritonserver` does."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

from tritonclient.grpc import service_pb2 as pb

Input = tuple[str, str, Sequence[int]]
X: tuple[Input, ...] = (("INPUT0", "FP32", (4,)),)
SIXTEEN = b"\x00\x00\x80\x3f" * 4


def infer_request(
    model: str = "id_fp32",
    inputs: Sequence[Input] = X,
    raw: Sequence[bytes] = (SIXTEEN,),
    outputs: Sequence[str] = (),
    *,
    version: str = "",
    request_id: str = "",
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=request_id, raw_input_contents=raw)
    for name, datatype, shape in inputs:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def of_sequence(
    request: pb.ModelInferRequest, identity: int | str, *, start: bool = False, end: bool = False
) -> pb.ModelInferRequest:
    """The same request, as one of a sequence."""
    if isinstance(identity, int):
        request.parameters["sequence_id"].int64_param = identity
    else:
        request.parameters["sequence_id"].string_param = identity
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    return request


def elements(*values: bytes) -> bytes:
    """BYTES elements as they travel."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def typed_request(
    model: str, datatype: str, shape: Sequence[int] = (2,), **contents: Sequence[object]
) -> pb.ModelInferRequest:
    request = infer_request(model, [("INPUT0", datatype, shape)], ())
    request.inputs[0].contents.SetInParent()
    for field, values in contents.items():
        getattr(request.inputs[0].contents, field).extend(values)
    return request


def _changed(change: Callable[[pb.ModelInferRequest], object], **options: object) -> pb.ModelInferRequest:
    request = infer_request(**options)  # type: ignore[arg-type]
    change(request)
    return request


def _models_and_versions() -> Iterator[tuple[str, pb.ModelInferRequest]]:
    yield "good", infer_request()
    yield "request id", infer_request(request_id="abc")
    yield "request id in an error", infer_request(request_id="abc", raw=(b"123",))
    yield "unknown model", infer_request("nope")
    yield "empty model name", infer_request("")
    for version in ("1", "2", "0", "01"):
        yield f"version {version}", infer_request(version=version)
    yield "version negative", infer_request(version="-1")
    yield "version of a model with two", infer_request("rich", [("INPUT0", "FP32", (1, 4))], version="2")
    yield "decoupled model", infer_request("decoupled")
    yield "empty message", pb.ModelInferRequest()


def _shapes() -> Iterator[tuple[str, pb.ModelInferRequest]]:
    yield "too few bytes", infer_request(raw=(SIXTEEN[:12],))
    yield "too many bytes", infer_request(raw=(SIXTEEN + b"1234",))
    yield "no bytes", infer_request(raw=())
    yield "zero elements", infer_request(inputs=[("INPUT0", "FP32", (0,))], raw=(b"",))
    yield "no dimensions", infer_request(inputs=[("INPUT0", "FP32", ())], raw=(b"1234",))
    yield "wrong rank", infer_request(inputs=[("INPUT0", "FP32", (2, 2))])
    yield "many dimensions", infer_request(inputs=[("INPUT0", "FP32", (1,) * 100)], raw=(b"1234",))
    yield "wrong fixed dimension", infer_request("fixed", [("INPUT0", "FP32", (1, 15))], (b"1234" * 15,))
    yield "batch too large", infer_request("fixed", [("INPUT0", "FP32", (9, 16))], (b"1234" * 144,))
    yield "batch", infer_request("fixed", [("INPUT0", "FP32", (3, 16))], (b"1234" * 48,))
    yield "batch forgotten", infer_request("fixed", [("INPUT0", "FP32", (16,))], (b"1234" * 16,))
    yield "batch of none", infer_request("fixed", [("INPUT0", "FP32", (0, 16))], (b"",))


def _tensors() -> Iterator[tuple[str, pb.ModelInferRequest]]:
    both = [("A", "FP32", (4,)), ("B", "INT32", (2, 1))]
    yield "wrong datatype", infer_request(inputs=[("INPUT0", "INT32", (4,))])
    yield "unknown datatype", infer_request(inputs=[("INPUT0", "FOO", (4,))])
    yield "no datatype", infer_request(inputs=[("INPUT0", "", (4,))])
    yield "unknown input", infer_request(inputs=[("X", "FP32", (4,))])
    yield "input without name", infer_request(inputs=[("", "FP32", (4,))])
    yield "input twice", infer_request(inputs=X * 2, raw=(SIXTEEN,) * 2)
    yield "extra input", infer_request(inputs=[*X, ("Y", "FP32", (4,))], raw=(SIXTEEN,) * 2)
    yield "no inputs", infer_request(inputs=(), raw=())
    yield "missing input", infer_request("two", both[:1])
    yield "two inputs", infer_request("two", both, (SIXTEEN, b"12345678"))
    yield "raw inputs swapped", infer_request("two", both, (b"12345678", SIXTEEN))
    yield "one output of two", infer_request("two", both, (SIXTEEN, b"12345678"), ["OB"])
    yield "unknown output", infer_request(outputs=["NOPE"])
    yield "output twice", infer_request(outputs=["OUTPUT0", "OUTPUT0"])


def _strings() -> Iterator[tuple[str, pb.ModelInferRequest]]:
    def strings(count: int, raw: bytes) -> pb.ModelInferRequest:
        return infer_request("id_string", [("INPUT0", "BYTES", (count,))], (raw,))

    yield "strings", strings(2, elements(b"a", b"b\0c"))
    yield "strings, none", strings(0, b"")
    yield "strings, too few", strings(2, elements(b"a"))
    yield "strings, too many", strings(1, elements(b"a", b"b"))
    yield "strings, cut length", strings(1, b"\x01\x00\x00")
    yield "strings, empty", strings(1, b"")
    yield "strings, byte too many", strings(0, b"a")


def _typed() -> Iterator[tuple[str, pb.ModelInferRequest]]:
    yield "typed BOOL", typed_request("id_bool", "BOOL", bool_contents=[True, False])
    for bits in (8, 16, 32):
        yield f"typed INT{bits}", typed_request(f"id_int{bits}", f"INT{bits}", int_contents=[1, -2])
        yield f"typed UINT{bits}", typed_request(f"id_uint{bits}", f"UINT{bits}", uint_contents=[1, 2])
    yield "typed INT64", typed_request("id_int64", "INT64", int64_contents=[1, -(2**60)])
    yield "typed UINT64", typed_request("id_uint64", "UINT64", uint64_contents=[1, 2**63])
    yield "typed FP32", typed_request("id_fp32", "FP32", fp32_contents=[1.5, -2])
    yield "typed FP64", typed_request("id_fp64", "FP64", fp64_contents=[1.5, -2])
    yield "typed BYTES", typed_request("id_string", "BYTES", bytes_contents=[b"a", b""])
    yield "typed FP16", typed_request("id_fp16", "FP16", fp32_contents=[1, 2])
    yield "typed BF16", typed_request("id_bf16", "BF16", fp32_contents=[1, 2])
    yield "typed, wrong type", typed_request("id_fp32", "FP32", int_contents=[1, 2])
    yield "typed, too few", typed_request("id_fp32", "FP32", fp32_contents=[1])
    yield "typed, nothing", typed_request("id_fp32", "FP32")
    yield "typed, nothing wanted", typed_request("id_fp32", "FP32", (0,))
    mixed = typed_request("id_fp32", "FP32", fp32_contents=[1, 2])
    mixed.raw_input_contents.append(b"12345678")
    yield "typed and raw", mixed


def _parameters() -> Iterator[tuple[str, pb.ModelInferRequest]]:
    values: list[tuple[str, object]] = [("int64_param", 1), ("int64_param", -1), ("string_param", "x")]
    values += [("bool_param", True), ("uint64_param", 3), ("double_param", 2.5)]
    reserved = ["triton_foo", "triton_enable_empty_final_response"]
    for key in ["custom", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end", *reserved]:
        for kind, value in values:
            request = infer_request()
            setattr(request.parameters[key], kind, value)
            yield f"parameter {key} {kind} {value}", request
    yield "parameter without value", _changed(lambda r: r.parameters["custom"].SetInParent())
    yield "input parameter", _changed(lambda r: setattr(r.inputs[0].parameters["x"], "string_param", "y"))
    sequence = infer_request("seq", [("INPUT0", "FP32", (1, 4))])
    yield "sequence without id", sequence
    started = pb.ModelInferRequest()
    started.CopyFrom(sequence)
    started.parameters["sequence_id"].int64_param = 7
    started.parameters["sequence_start"].bool_param = True
    yield "sequence started", started


def _classes() -> Iterator[tuple[str, pb.ModelInferRequest]]:
    values = struct.pack("<8f", 0.1, 0.7, 0.2, 0.3, 4, 3, 2, 1)
    for count in (1, 3, 9):
        request = infer_request("labels", [("INPUT0", "FP32", (2, 4))], (values,), ["OUTPUT0"])
        request.outputs[0].parameters["classification"].int64_param = count
        yield f"classification {count}", request
    text = infer_request(outputs=["OUTPUT0"])
    text.outputs[0].parameters["classification"].string_param = "x"
    yield "classification as text", text


def cases() -> dict[str, pb.ModelInferRequest]:
    """All cases by name."""
    groups = (_models_and_versions, _shapes, _tensors, _strings, _typed, _parameters, _classes)
    return {name: request for group in groups for name, request in group()}
