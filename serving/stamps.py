"""Unix seconds and protobuf timestamps. Pure."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp


def stamp(unix_s: float) -> Timestamp:
    """`unix_s` as a timestamp, to the microsecond."""
    value = Timestamp()
    value.FromMicroseconds(round(unix_s * 1_000_000))
    return value
