"""Records as they stand in etcd: canonical protobuf JSON, one line, keys in the order of the fields. Pure."""

from __future__ import annotations

import json
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from serving.errors import DataLoss

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """lowerCamelCase names, 64-bit integers as strings, defaults left out. Equal messages give equal bytes."""
    return json_format.MessageToJson(message, indent=None, ensure_ascii=False, sort_keys=True).encode()


def decode(message_type: type[M], data: bytes) -> M:
    """The inverse of `encode`; unknown fields (of a newer version) are ignored. Raises `DataLoss` on rubbish."""
    try:
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise TypeError(f"an object was expected, not {type(fields).__name__}")
        return json_format.ParseDict(fields, message_type(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        shown = data[:80] + (b"..." if len(data) > 80 else b"")
        raise DataLoss(f"not a {message_type.DESCRIPTOR.full_name} in canonical JSON: {error}: {shown!r}") from error
