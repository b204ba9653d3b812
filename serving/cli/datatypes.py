"""Which numpy type stands for a datatype of KServe v2. Pure."""

from __future__ import annotations

from typing import Final

from serving.errors import InvalidArgument

_NUMPY: Final = {
    "BOOL": "bool",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}


def numpy_dtype(datatype: str) -> str:
    """`FP32` → `float32`. Raises `InvalidArgument` for one that lists cannot stand for."""
    found = _NUMPY.get(datatype)
    if found is None:
        raise InvalidArgument(f"a list cannot be given as {datatype} (allowed: {', '.join(_NUMPY)}, BF16, BYTES)")
    return found
