"""Orders of batches, as gateways write them."""

from __future__ import annotations

from typing import Any

from serving._proto import batch_pb2 as pb
from serving.stamps import stamp

T0 = 1_900_000_000.0
WINDOW_S = 3600


def order_of(
    batch_id: str = "batch_1", *, created: float = T0, window_s: int = WINDOW_S, **fields: Any
) -> pb.BatchOrder:
    """`created`: unix seconds."""
    values: dict[str, Any] = {
        "namespace": "default",
        "input_file": "file-1",
        "endpoint": "/v1/chat/completions",
        **fields,
    }
    return pb.BatchOrder(
        id=batch_id,
        completion_window_s=window_s,
        created_at=stamp(created),
        expires_at=stamp(created + window_s),
        **values,
    )
