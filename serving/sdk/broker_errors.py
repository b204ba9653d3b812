"""What brokers say when they do not do what they are asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import grpc.aio

from serving._proto import broker_pb2 as bpb
from serving._proto import records_pb2 as pb
from serving.broker.draining import DRAINED
from serving.discovery.client_verdict import was_never_sent
from serving.errors import Code, MeshError, ResourceExhausted, Unavailable, error_for_code

_RETRY_AFTER: Final = "retry-after-ms"
_REFUSED: Final = "takes no new requests"  # of a broker that leaves, to what it has not begun


class QueueFull(ResourceExhausted):
    """A broker's limit is reached. `retry_after_s` is when it may be worth to try again; 0: it does not say."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Away(Unavailable):
    """A broker did not answer. `begun`: it may have done what it was asked for."""

    def __init__(self, message: str, *, begun: bool, drained: bool = False) -> None:
        """`drained`: it is there, has not taken it, and will not before somebody undoes that."""
        super().__init__(message)
        self.begun = begun
        self.drained = drained


class NoHome(Unavailable):
    """Nobody serves a journal now."""


def broker_error(error: grpc.aio.AioRpcError, endpoint: pb.Endpoint) -> MeshError:
    """What the end of a call of a broker means: `Away`, `QueueFull`, or what it says."""
    return _meaning(
        int(error.code().value[0]), error.details() or "", _retry_after_s(error.trailing_metadata() or ()), endpoint
    )


def refusal(refused: bpb.Refusal, endpoint: pb.Endpoint) -> MeshError:
    """The same of what a broker says over a stream."""
    return _meaning(refused.code, refused.message, refused.retry_after_ms / 1000, endpoint)


def _meaning(code: int, details: str, retry_after_s: float, endpoint: pb.Endpoint) -> MeshError:
    if code == Code.UNAVAILABLE:
        text = f"the broker {endpoint.id} at {endpoint.address} does not answer: {details}"
        begun = not (was_never_sent(details, connected=False) or _REFUSED in details)
        return Away(text, begun=begun, drained=details == DRAINED)
    if code == Code.RESOURCE_EXHAUSTED:
        return QueueFull(details, retry_after_s)
    return error_for_code(code, details)


def _retry_after_s(metadata: Iterable[Any]) -> float:
    for name, value in metadata:
        if name == _RETRY_AFTER and str(value).isdigit():
            return int(value) / 1000
    return 0.0
