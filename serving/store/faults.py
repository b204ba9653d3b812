"""What a failed call to etcd means: the one table from gRPC status and etcd's text to the mesh's errors.

Checked against etcd 3.4.23. etcd answers several things with codes that say something else (a wrong password is
INVALID_ARGUMENT, an outdated token too), so its text is looked at first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import grpc
import grpc.aio

from serving.errors import (
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    PermissionDenied,
    ResourceExhausted,
    StoreUnavailable,
    Unauthenticated,
    error_for_code,
)


class RevisionGone(FailedPrecondition):
    """The revision asked for was compacted away, or the store has not reached it: list again."""


class Cure(Enum):
    """What to do about a failed call."""

    ELSEWHERE = "elsewhere"  # try another endpoint, then wait
    WAIT = "wait"  # the store is busy: wait, then any endpoint
    LOGIN = "login"  # a new token
    NONE = "none"  # it would fail again


@dataclass(frozen=True, slots=True)
class Fault:
    """A failed call. `applied_maybe`: etcd may have done, or may still do, what was asked."""

    error: MeshError
    cure: Cure
    applied_maybe: bool


@dataclass(frozen=True, slots=True)
class _Row:
    text: str
    error: type[MeshError]
    cure: Cure
    applied_maybe: bool
    hint: str = ""


_TABLE: Final = (
    _Row("invalid auth token", Unauthenticated, Cure.LOGIN, False),
    _Row("revision of auth store is old", Unauthenticated, Cure.LOGIN, False),
    _Row("user name is empty", Unauthenticated, Cure.LOGIN, False, "the store wants a user and a password"),
    _Row("authentication failed", Unauthenticated, Cure.NONE, False, "check the user and the password file"),
    _Row("authentication is not enabled", FailedPrecondition, Cure.NONE, False),
    _Row("has been compacted", RevisionGone, Cure.NONE, False),
    _Row("future revision", RevisionGone, Cure.NONE, False),
    _Row("permission denied", PermissionDenied, Cure.NONE, False, "grant the user's role the keys below /mesh/"),
    _Row("request is too large", InvalidArgument, Cure.NONE, False, "etcd takes at most 1.5 MiB in one request"),
    _Row("database space exceeded", ResourceExhausted, Cure.NONE, False, "compact and defragment it, then disarm"),
    _Row("too many requests", StoreUnavailable, Cure.WAIT, False),
    _Row("no leader", StoreUnavailable, Cure.ELSEWHERE, False),
    _Row("not capable", StoreUnavailable, Cure.ELSEWHERE, False),
    _Row("learner", StoreUnavailable, Cure.ELSEWHERE, False),
    _Row("failed to connect", StoreUnavailable, Cure.ELSEWHERE, False),
    _Row("connection refused", StoreUnavailable, Cure.ELSEWHERE, False),
    _Row("certificate_verify_failed", StoreUnavailable, Cure.ELSEWHERE, False, "check the CA file and the names"),
    _Row("handshake failed", StoreUnavailable, Cure.ELSEWHERE, False, "check the TLS files"),
)

_ELSEWHERE: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
    }
)


def fault_of(error: grpc.aio.AioRpcError, what: str, endpoint: str) -> Fault:
    """Says what a failed call means. `what` names the call and its key for the message."""
    return fault_of_status(error.code(), error.details() or "", what, endpoint)


def fault_of_status(code: grpc.StatusCode, details: str, what: str, endpoint: str) -> Fault:
    """The table itself. Unknown texts are judged by their code; those of the transport leave the outcome open."""
    where = f"etcd {endpoint}: {what}: {code.name}: {details}"
    lowered = details.lower()
    for row in _TABLE:
        if row.text in lowered:
            return Fault(row.error(f"{where} ({row.hint})" if row.hint else where), row.cure, row.applied_maybe)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return Fault(Unauthenticated(where), Cure.LOGIN, False)
    if code in _ELSEWHERE:
        return Fault(StoreUnavailable(where), Cure.ELSEWHERE, True)
    return Fault(error_for_code(int(code.value[0]), where), Cure.NONE, False)
