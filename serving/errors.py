"""Every error that leaves a public function of the mesh, and the one table of their protocol codes.

The tree::

    MeshError                   code             HTTP   may be retried as it is
    ├── InvalidArgument         INVALID_ARGUMENT  400   no
    │   └── SpecError           (a spec: names file, line, field)
    ├── NotFound                NOT_FOUND         404   no
    ├── AlreadyExists           ALREADY_EXISTS    409   no
    ├── Conflict                ABORTED           409   no, read again first
    ├── FailedPrecondition      FAILED_PRECONDITION 412 no
    ├── Unauthenticated         UNAUTHENTICATED   401   no
    ├── PermissionDenied        PERMISSION_DENIED 403   no
    ├── ResourceExhausted       RESOURCE_EXHAUSTED 429  after a while
    ├── Unavailable             UNAVAILABLE       503   yes, elsewhere
    │   └── StoreUnavailable    (etcd does not answer)
    ├── DeadlineExceeded        DEADLINE_EXCEEDED 504   no, the time is used up
    ├── Cancelled               CANCELLED         499   no
    ├── NotSupported            UNIMPLEMENTED     501   no
    ├── DataLoss                DATA_LOSS         500   no
    └── Internal                INTERNAL          500   no
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Code(IntEnum):
    """gRPC's status codes by number, so that pure modules need not import gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# Not what a client asked wrongly, took back, or what was too much. The twin is in cpp_ext/ingress/instruments.cc.
SERVER_FAULTS: Final = frozenset(
    {Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS}
)


class MeshError(Exception):
    """Base of all errors of the mesh. `message` says what was wrong, where, and what to do."""

    code: Code = Code.INTERNAL
    http_status: int = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(MeshError):
    """The request itself is wrong; sending it again cannot help."""

    code = Code.INVALID_ARGUMENT
    http_status = 400


class SpecError(InvalidArgument):
    """A spec is wrong. `field` is a path such as `deployments[0].replicas.min`; `line` counts from 1, 0 is unknown."""

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        line: int = 0,
        source: str = "",
        allowed: tuple[str, ...] = (),
        closest: str = "",
    ) -> None:
        self.detail = message  # without the place and the hints
        where = ":".join(part for part in (source, str(line) if line else "") if part)
        text = f"{where}: {message}" if where else message
        if closest:
            text += f"; did you mean `{closest}`?"
        if allowed:
            text += f" (allowed: {', '.join(allowed)})"
        super().__init__(text)
        self.field = field
        self.line = line
        self.source = source
        self.allowed = allowed
        self.closest = closest


class NotFound(MeshError):
    """What the request names does not exist."""

    code = Code.NOT_FOUND
    http_status = 404


class AlreadyExists(MeshError):
    """What should be created exists already."""

    code = Code.ALREADY_EXISTS
    http_status = 409


class Conflict(MeshError):
    """Somebody else changed it in between: read again, decide again."""

    code = Code.ABORTED
    http_status = 409


class FailedPrecondition(MeshError):
    """The system is not in the state that the request needs."""

    code = Code.FAILED_PRECONDITION
    http_status = 412


class Unauthenticated(MeshError):
    """No valid credentials."""

    code = Code.UNAUTHENTICATED
    http_status = 401


class PermissionDenied(MeshError):
    """Valid credentials without the right to do this."""

    code = Code.PERMISSION_DENIED
    http_status = 403


class ResourceExhausted(MeshError):
    """A limit or quota is reached."""

    code = Code.RESOURCE_EXHAUSTED
    http_status = 429


class Unavailable(MeshError):
    """Nobody who could answer can be reached now."""

    code = Code.UNAVAILABLE
    http_status = 503


class StoreUnavailable(Unavailable):
    """etcd does not answer. What runs keeps running; changes wait."""


class DeadlineExceeded(MeshError):
    """The caller's time is used up. The work may or may not have been done."""

    code = Code.DEADLINE_EXCEEDED
    http_status = 504


class Cancelled(MeshError):
    """The caller went away."""

    code = Code.CANCELLED
    http_status = 499


class NotSupported(MeshError):
    """A clear "not yet": the protocol knows it, this version does not do it."""

    code = Code.UNIMPLEMENTED
    http_status = 501


class DataLoss(MeshError):
    """Stored data is damaged."""

    code = Code.DATA_LOSS
    http_status = 500


class Internal(MeshError):
    """A fault of the mesh itself. Details are in the log under the id that the message names."""


_BY_CODE: dict[Code, type[MeshError]] = {
    Code.INVALID_ARGUMENT: InvalidArgument,
    Code.OUT_OF_RANGE: InvalidArgument,
    Code.NOT_FOUND: NotFound,
    Code.ALREADY_EXISTS: AlreadyExists,
    Code.ABORTED: Conflict,
    Code.FAILED_PRECONDITION: FailedPrecondition,
    Code.UNAUTHENTICATED: Unauthenticated,
    Code.PERMISSION_DENIED: PermissionDenied,
    Code.RESOURCE_EXHAUSTED: ResourceExhausted,
    Code.UNAVAILABLE: Unavailable,
    Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    Code.CANCELLED: Cancelled,
    Code.UNIMPLEMENTED: NotSupported,
    Code.DATA_LOSS: DataLoss,
}


_BY_STATUS: Final = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.ALREADY_EXISTS,
    412: Code.FAILED_PRECONDITION,
    413: Code.INVALID_ARGUMENT,
    422: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
    507: Code.RESOURCE_EXHAUSTED,
}


def error_for_code(code: int, message: str) -> MeshError:
    """The error of the tree that stands for a gRPC status; codes without one of their own become `Internal`."""
    try:
        return _BY_CODE.get(Code(code), Internal)(message)
    except ValueError:
        return Internal(f"unknown status code {code}: {message}")


def error_for_status(status: int, message: str) -> MeshError:
    """The error of the tree that stands for an HTTP status from 400 on; what has none of its own is `Internal`."""
    return error_for_code(_BY_STATUS.get(status, Code.INTERNAL), message)
