"""numpy arrays ↔ KServe v2 tensors, as raw contents. Pure.

Inputs are copied once, from the array into the message; outputs are read-only views of the received message.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tritonclient.grpc import service_pb2

from serving.errors import DataLoss, InvalidArgument

Array: TypeAlias = NDArray[Any]
Parameter: TypeAlias = bool | int | float | str

_TO_TRITON: Final = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
}
_TO_NUMPY: Final = {triton: name for name, triton in _TO_TRITON.items() if name != "bfloat16"}
DATATYPES: Final = (*_TO_TRITON.values(), "BYTES")
_TYPED: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_RAW_INPUT_TAG: Final = b"\x3a"  # field 7 (raw_input_contents), length-delimited
_INT64_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True, eq=False)
class BF16:
    """Marks an input as BF16 where the package `ml_dtypes` is not at hand: `values` are rounded from float32."""

    values: ArrayLike

    def bits(self) -> NDArray[np.uint16]:
        """Round to nearest, ties to even; NaN stays NaN."""
        wide = np.ascontiguousarray(self.values, dtype="<f4")
        raw = wide.view("<u4")
        rounded = raw + (0x7FFF + ((raw >> 16) & 1)).astype("<u4")
        chosen = np.where(np.isnan(wide), raw | 0x400000, rounded)
        return (chosen >> 16).astype("<u2").reshape(np.shape(self.values))


class InferRequest:
    """A `ModelInferRequest` whose tensors stay in their arrays until it is serialized."""

    __slots__ = ("_buffers", "head")

    def __init__(self, head: Any, buffers: Sequence[bytes | memoryview]) -> None:
        self.head = head
        self._buffers = buffers

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        parts: list[bytes | memoryview] = [self.head.SerializeToString()]
        for buffer in self._buffers:
            parts += (_RAW_INPUT_TAG, varint(len(buffer)), buffer)
        return b"".join(parts)


def encode_request(
    model: str,
    inputs: Mapping[str, ArrayLike | BF16],
    *,
    outputs: Sequence[str] | None = None,
    version: str = "",
    request_id: str = "",
    parameters: Mapping[str, Parameter] | None = None,
) -> InferRequest:
    """The request for `model`; raises `InvalidArgument` for an input that is no tensor, by its name."""
    buffers: list[bytes | memoryview] = []
    try:
        head = service_pb2.ModelInferRequest(model_name=model, model_version=version, id=request_id)
        for name, value in inputs.items():
            datatype, shape, buffer = encode_tensor(f"input {name}", value)
            head.inputs.add(name=name, datatype=datatype, shape=shape)
            buffers.append(buffer)
        for name in outputs or ():
            head.outputs.add(name=name)
        for name, parameter in (parameters or {}).items():
            set_parameter(name, head.parameters[name], parameter)
    except (TypeError, ValueError) as error:  # protobuf's answer to names and texts of the wrong kind
        raise InvalidArgument(f"the request for model {model!r} is malformed: {error}") from error
    return InferRequest(head, buffers)


def decode_response(response: Any) -> dict[str, Array]:
    """The outputs of a `ModelInferResponse` by name. BYTES are object arrays of `bytes`; others are read-only views.

    BF16 needs the package `ml_dtypes`; without it the values come as float32. Raises `DataLoss` for a damaged answer.
    """
    raw = response.raw_output_contents
    if raw and len(raw) != len(response.outputs):
        raise DataLoss(
            f"the answer of {response.model_name} has {len(response.outputs)} outputs, contents of {len(raw)}"
        )
    if not raw:
        return {output.name: decode_tensor(f"output {output.name}", output, None) for output in response.outputs}
    pairs = zip(response.outputs, raw, strict=True)
    return {output.name: decode_tensor(f"output {output.name}", output, data) for output, data in pairs}


def decode_tensor(label: str, tensor: Any, raw: bytes | None) -> Array:
    """One tensor of a message from its raw contents, or from its typed ones where there are none.

    `label` is what errors call it. Raises `DataLoss` when contents, shape and datatype do not fit together.
    """
    return _decode_typed(label, tensor) if raw is None else _decode_raw(label, tensor, raw)


def encode_tensor(label: str, value: Any) -> tuple[str, tuple[int, ...], bytes | memoryview]:
    """Datatype, shape and raw contents. `label` is what errors call it; raises `InvalidArgument` for what is no tensor.

    The contents are a view of the array where it lies in memory as it is sent.
    """
    if isinstance(value, BF16):
        bits = value.bits()
        return "BF16", bits.shape, bits.reshape(-1).view(np.uint8).data if bits.size else b""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidArgument(f"{label} is not a tensor: {error}") from error
    if array.dtype.kind in "OSU":
        return "BYTES", array.shape, _encode_bytes(label, array)
    datatype = _TO_TRITON.get(array.dtype.name)
    if datatype is None:
        known = ", ".join(_TO_TRITON)
        raise InvalidArgument(f"{label} has the type {array.dtype}; known are texts, bytes and {known}")
    shape = array.shape  # before `ascontiguousarray`, which gives a scalar one dimension
    if array.dtype.byteorder == ">" or not array.flags.c_contiguous:
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return datatype, shape, array.reshape(-1).view(np.uint8).data if array.size else b""


def _encode_bytes(label: str, array: Array) -> bytes:
    parts: list[bytes] = []
    for index, item in enumerate(array.reshape(-1).tolist()):
        if isinstance(item, str):
            item = _utf8(label, index, item)
        elif not isinstance(item, bytes):
            raise InvalidArgument(f"{label}, element {index}: expects a text or bytes, got {type(item).__name__}")
        parts += (struct.pack("<I", len(item)), item)
    return b"".join(parts)


def _utf8(label: str, index: int, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{label}, element {index}: half of a surrogate pair is no text") from error


def set_parameter(name: str, target: Any, value: Parameter) -> None:
    """Fills an `InferParameter`. Raises `InvalidArgument` for a value that it cannot hold."""
    if isinstance(value, bool):
        target.bool_param = value
    elif isinstance(value, int):
        if not -_INT64_MAX - 1 <= value <= _INT64_MAX:
            raise InvalidArgument(f"parameter {name} is {value}, which does not fit into 64 bits")
        target.int64_param = value
    elif isinstance(value, float):
        target.double_param = value
    elif isinstance(value, str):
        target.string_param = value
    else:
        raise InvalidArgument(f"parameter {name} is a {type(value).__name__}; known are bool, int, float and str")


def _decode_raw(label: str, output: Any, data: bytes) -> Array:
    shape = tuple(output.shape)
    if output.datatype == "BYTES":
        return _shaped(label, _decode_bytes(label, data), shape)
    if output.datatype == "BF16":
        return _shaped(label, _widened(_from_buffer(label, data, "uint16")), shape)
    dtype = _TO_NUMPY.get(output.datatype)
    if dtype is None:
        raise DataLoss(f"{label} has the unknown datatype {output.datatype!r}")
    return _shaped(label, _from_buffer(label, data, dtype), shape)


def _from_buffer(label: str, data: bytes, dtype: str) -> Array:
    little = np.dtype(dtype).newbyteorder("<")
    if len(data) % little.itemsize:
        raise DataLoss(f"{label} has {len(data)} bytes, no multiple of {little.itemsize}")
    return np.frombuffer(data, dtype=little)


def _decode_typed(label: str, output: Any) -> Array:
    field = _TYPED.get(output.datatype)
    if field is None:
        raise DataLoss(f"{label} of datatype {output.datatype!r} came without contents")
    values = list(getattr(output.contents, field))
    if output.datatype == "BYTES":
        return _shaped(label, _objects(values), tuple(output.shape))
    flat = np.asarray(values).astype(_TO_NUMPY[output.datatype])
    if flat.dtype.kind in "iu" and flat.tolist() != values:  # 8 and 16 bits travel in fields of 32
        raise DataLoss(f"{label} has values that do not fit into {output.datatype}")
    return _shaped(label, flat, tuple(output.shape))


def _decode_bytes(label: str, data: bytes) -> Array:
    items: list[bytes] = []
    offset = 0
    while offset < len(data):
        end = offset + 4
        length = int.from_bytes(data[offset:end], "little")
        if end + length > len(data):
            raise DataLoss(f"{label} is cut off: an element of {length} bytes at {offset} of {len(data)}")
        items.append(data[end : end + length])
        offset = end + length
    return _objects(items)


def _widened(bits: Array) -> Array:
    """BF16's bits as `ml_dtypes.bfloat16`, which is a view, or as float32."""
    native = _bfloat16()
    if native is not None:
        return bits.view(native)
    return (bits.astype("<u4") << 16).view("<f4")


def _shaped(label: str, flat: Array, shape: tuple[int, ...]) -> Array:
    if flat.size != math.prod(shape) or min(shape, default=0) < 0:
        raise DataLoss(f"{label} has {flat.size} elements, its shape is {list(shape)}")
    try:
        return flat.reshape(shape)
    except ValueError as error:  # more dimensions than numpy has, or lengths that it cannot multiply
        raise DataLoss(f"{label} cannot have its shape of {len(shape)} dimensions: {error}") from error


def _objects(items: list[bytes]) -> Array:
    made = np.empty(len(items), dtype=object)
    made[:] = items
    return made


@functools.cache
def _bfloat16() -> np.dtype[Any] | None:
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(ml_dtypes.bfloat16)


def varint(value: int) -> bytes:
    """A length as protobuf writes it."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
