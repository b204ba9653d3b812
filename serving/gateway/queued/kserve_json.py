"""KServe v2 requests and answers as JSON, with its binary tensor extension, ↔ the messages of its gRPC form. Pure.

Protocol: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field
from tritonclient.grpc import service_pb2

from serving.errors import NotSupported
from serving.openai.checked import RequestModel, at_most, checked
from serving.openai.errors import InvalidRequest
from serving.openai.json_body import read_object
from serving.openai.sse import to_json
from serving.sdk.tensors import BF16, Array, decode_tensor, encode_tensor, set_parameter

HEADER_LENGTH: Final = "inference-header-content-length"
_BINARY_SIZE: Final = "binary_data_size"
_OF_THE_ANSWER: Final = ("binary_data", "binary_data_output")  # its form is asked for with the result
_MAX_DIMENSIONS: Final = 32  # numpy's
_MAX_TENSORS: Final = 1024
_MAX_PARAMETERS: Final = 256
_INTEGERS: Final = ("INT", "UINT")


Parameters = Annotated[
    dict[str, bool | Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | float | str],
    at_most(_MAX_PARAMETERS),
]


class InferInput(RequestModel):
    """`data` is nested or flat; with `parameters.binary_data_size` the contents follow the JSON."""

    name: Annotated[str, Field(min_length=1)]
    datatype: Literal[
        "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64",
        "BF16", "BYTES",
    ]  # fmt: skip
    shape: Annotated[list[Annotated[int, Field(ge=0, le=2**63 - 1)]], Field(max_length=_MAX_DIMENSIONS)]
    data: list[Any] | None = None
    parameters: Parameters | None = None


class InferOutput(RequestModel):
    name: Annotated[str, Field(min_length=1)]
    parameters: Parameters | None = None


class InferBody(RequestModel):
    """A request of KServe v2."""

    id: str | None = None
    parameters: Parameters | None = None
    inputs: Annotated[list[InferInput], Field(max_length=_MAX_TENSORS, fail_fast=True)]
    outputs: Annotated[list[InferOutput], Field(max_length=_MAX_TENSORS, fail_fast=True)] | None = None


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """Which outputs a client wants as binary data: as each says (`binary_data`), else all or none."""

    every: bool = False
    named: Mapping[str, bool] = field(default_factory=dict)

    def is_binary(self, output: str) -> bool:
        return self.named.get(output, self.every)


BINARY: Final = AnswerForm(every=True)


def read_infer_request(data: bytes, header_length: str, model: str, version: str, limit_bytes: int) -> Any:
    """The `ModelInferRequest` alone, see `read_infer`."""
    return read_infer(data, header_length, model, version, limit_bytes)[0]


def read_infer(data: bytes, header_length: str, model: str, version: str, limit_bytes: int) -> tuple[Any, AnswerForm]:
    """The `ModelInferRequest` for a model of that name, and the form that its answer is wanted in.

    `header_length`: of the JSON, where tensors follow it; or "". Raises `InvalidRequest` that names the field.
    """
    if header_length and not (header_length.isascii() and header_length.isdigit() and len(header_length) < 16):
        raise _wrong(HEADER_LENGTH, "the bytes of the JSON", header_length)
    end = int(header_length) if header_length else len(data)
    if end > len(data):
        raise _wrong(HEADER_LENGTH, f"at most the {len(data)} bytes of the body", header_length)
    body = checked(InferBody, read_object(data[:end], limit_bytes=limit_bytes), {})
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version, id=body.id or "")
    _set_parameters(message.parameters, body.parameters)
    tail = _Tail(data, end)
    for index, each in enumerate(body.inputs):
        made = message.inputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
        _set_parameters(made.parameters, each.parameters)
        message.raw_input_contents.append(_contents_of(each, f"inputs[{index}]", tail))
    tail.check_used()
    for output in body.outputs or ():
        _set_parameters(message.outputs.add(name=output.name).parameters, output.parameters)
    return message, _form_of(body)


def answer_object(data: bytes) -> dict[str, Any]:
    """A `ModelInferResponse` as JSON. Raises `InvalidRequest` for values that JSON does not know."""
    response = service_pb2.ModelInferResponse.FromString(data)
    answer = _head(response)
    answer["outputs"] = [
        {**_described(output), "data": _values(output.name, decode_tensor(f"output {output.name}", output, raw))}
        for output, raw in _contents(response)
    ]
    return answer


def formed_answer(data: bytes, form: AnswerForm) -> tuple[bytes, int]:
    """A `ModelInferResponse`: JSON, then contents of the outputs wanted so, one after the other; the JSON's bytes.

    Raises as `answer_object` does.
    """
    response = service_pb2.ModelInferResponse.FromString(data)
    answer = _head(response)
    outputs, tail = [], []
    for output, raw in _contents(response):
        label = f"output {output.name}"
        if not form.is_binary(output.name):
            values = _values(output.name, decode_tensor(label, output, raw))
            outputs.append({**_described(output), "data": values})
            continue
        if raw is None:
            raw = bytes(encode_tensor(label, decode_tensor(label, output, None))[2])
        parameters = {**_parameters(output.parameters), _BINARY_SIZE: len(raw)}
        outputs.append({**_described(output), "parameters": parameters})
        tail.append(raw)
    head = to_json({**answer, "outputs": outputs})
    return b"".join((head, *tail)), len(head)


# ---------------------------------------------------------------------------------------------------- requests


def _form_of(body: InferBody) -> AnswerForm:
    said = {one.name: (one.parameters or {}).get("binary_data") for one in body.outputs or ()}
    every = (body.parameters or {}).get("binary_data_output", False) is True
    return AnswerForm(every, {name: value for name, value in said.items() if isinstance(value, bool)})


class _Tail:
    """Contents of tensors, which follow the JSON in the order of the inputs."""

    def __init__(self, data: bytes, begin: int) -> None:
        self._data = data
        self._at = begin

    def take(self, size: Any, field: str) -> bytes:
        left = len(self._data) - self._at
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= left:
            raise _wrong(field, f"at most the {left} bytes that follow", size)
        self._at += size
        return self._data[self._at - size : self._at]

    def check_used(self) -> None:
        if self._at != len(self._data):
            raise _wrong("inputs", "contents for all tensors", f"{len(self._data) - self._at} bytes more")


def _contents_of(given: InferInput, field: str, tail: _Tail) -> bytes:
    size = (given.parameters or {}).get(_BINARY_SIZE)
    if size is not None:
        return tail.take(size, f"{field}.parameters.{_BINARY_SIZE}")
    return _raw(given.data, given.datatype, math.prod(given.shape), f"{field}.data")


def _raw(data: Any, datatype: str, count: int, field: str) -> bytes:
    """Contents of nested or flat values, in row-major order."""
    if not isinstance(data, list):
        raise _wrong(field, "an array", data)
    values = _flat(data)
    if len(values) != count:
        raise _wrong(field, f"{count} values, as `shape` says", f"{len(values)}")
    wrong = next((value for value in values if not _fits(value, datatype)), None)
    if wrong is not None:
        raise _wrong(field, f"values of {datatype}", wrong)
    if datatype == "BF16":
        return bytes(encode_tensor(field, BF16(values))[2])
    kind = "O" if datatype == "BYTES" else _numpy(datatype)
    array = np.empty(count, dtype=object) if kind == "O" else np.array(values, dtype=kind)
    if kind == "O":
        array[:] = values
    return bytes(encode_tensor(field, array)[2])


def _flat(data: list[Any]) -> list[Any]:
    values: list[Any] = []
    rest: list[Any] = [data]
    while rest:
        here = rest.pop()
        if isinstance(here, list):
            rest.extend(reversed(here))
        else:
            values.append(here)
    return values


def _fits(value: Any, datatype: str) -> bool:
    if datatype == "BOOL":
        return isinstance(value, bool)
    if datatype == "BYTES":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if datatype.startswith(_INTEGERS):
        limits = np.iinfo(_numpy(datatype))
        return isinstance(value, int) and int(limits.min) <= value <= int(limits.max)
    kind = "float32" if datatype == "BF16" else _numpy(datatype)
    return abs(value) <= float(np.finfo(kind).max)


def _numpy(datatype: str) -> str:
    return {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"}.get(datatype, datatype.lower())


def _set_parameters(target: Any, given: Mapping[str, Any] | None) -> None:
    for name, value in (given or {}).items():
        if name == "sequence_id" and value not in (0, ""):
            raise NotSupported(
                "sequences cannot wait at a broker, as their state is at one replica: send them directly"
            )
        if name != _BINARY_SIZE and name not in _OF_THE_ANSWER:
            set_parameter(name, target[name], value)


def _wrong(field: str, wanted: str, found: Any) -> InvalidRequest:
    shown = repr(found)
    text = shown if len(shown) <= 60 else f"{shown[:60]}..."
    return InvalidRequest(f"`{field}`: wanted is {wanted}; found {text}", param=field, error_code="invalid_value")


# ---------------------------------------------------------------------------------------------------- answers


def _head(response: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        answer["id"] = response.id
    if response.parameters:
        answer["parameters"] = _parameters(response.parameters)
    return answer


def _contents(response: Any) -> list[tuple[Any, bytes | None]]:
    raw = list(response.raw_output_contents)
    return list(zip(response.outputs, raw or [None] * len(response.outputs), strict=True))


def _described(output: Any) -> dict[str, Any]:
    described = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
    return described | ({"parameters": _parameters(output.parameters)} if output.parameters else {})


def _parameters(given: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param") for name, value in given.items()
    }


def _values(name: str, array: Array) -> list[Any]:
    if array.dtype.kind == "O":
        try:
            return [item.decode("utf-8") for item in array.reshape(-1).tolist()]
        except UnicodeDecodeError as error:
            raise _no_json(name, "bytes that are no UTF-8") from error
    if array.dtype.kind not in "biu":
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise _no_json(name, "numbers that are not finite")
    values: list[Any] = array.reshape(-1).tolist()
    return values


def _no_json(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"the output `{name}` has {what}, which JSON cannot say: ask for its binary form (of a result, `?binary=true`)",
        param="binary",
        error_code="invalid_value",
    )
