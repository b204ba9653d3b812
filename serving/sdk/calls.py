"""One input object per call of the client, so that an interceptor sees and may change all of it.

An interceptor is ``async def intercept(call, proceed)``: it returns ``await proceed(call)``, before and after which it
may do anything (count, trace, check, replace `call`). The first one given is the outermost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from serving._proto import broker_pb2 as bpb
from serving._proto import records_pb2 as pb
from serving.store.keys import AppKey

if TYPE_CHECKING:
    from serving.sdk.spec import Application  # gateways have tickets, and no specs


@dataclass(frozen=True, slots=True)
class DeployCall:
    application: Application
    wait: bool
    timeout_s: float
    if_revision: int = 0
    dry_run: bool = False
    author: str = ""
    on_progress: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class StatusCall:
    app: AppKey
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ListCall:
    namespace: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class DeleteCall:
    app: AppKey
    wait: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ClustersCall:
    timeout_s: float


@dataclass(frozen=True, slots=True)
class RevisionsCall:
    app: AppKey
    timeout_s: float


@dataclass(frozen=True, slots=True)
class RollbackCall:
    app: AppKey
    to_revision: int
    wait: bool
    timeout_s: float
    author: str = ""
    on_progress: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class ScaleCall:
    """`least` and `most` replicas; None leaves a number as it is."""

    app: AppKey
    deployment: str
    least: int | None
    most: int | None
    wait: bool
    timeout_s: float
    author: str = ""
    on_progress: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class PauseRolloutCall:
    app: AppKey
    paused: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class PromoteRolloutCall:
    app: AppKey
    full: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class SplitCall:
    app: AppKey
    name: str
    weights: Mapping[str, int]
    wait: bool
    timeout_s: float
    author: str = ""
    on_progress: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class EndpointsCall:
    app: AppKey
    role: str


@dataclass(frozen=True, slots=True)
class InferCall:
    app: AppKey
    model: str
    inputs: Mapping[str, Any]
    outputs: Sequence[str] | None = None
    version: str = ""
    deployment: str = ""
    timeout_s: float = 30.0
    request_id: str = ""
    parameters: Mapping[str, bool | int | float | str] | None = None
    retry_safe: bool = True
    metadata: Sequence[tuple[str, str | bytes]] = field(default=())


@dataclass(frozen=True, slots=True)
class ModelMetadataCall:
    app: AppKey
    model: str
    version: str
    deployment: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class SubmitCall:
    """`request` is complete but for an idempotency key, which it gets where it has none."""

    app: AppKey
    request: bpb.SubmitRequest
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ItemCall:
    """`ticket` without the application, or an item's id; `action` is `"get"`, `"cancel"`, `"retry"` or
    `"retry_callback"`.

    A `get` waits for the item's end for `wait_s`.
    """

    app: AppKey
    ticket: str
    action: str
    wait_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ListItemsCall:
    """`states` are names, empty is all."""

    app: AppKey
    deployment: str
    tenant: str
    states: Sequence[str]
    limit: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ListCallbacksCall:
    """`state` is `"DUE"` or `"DEAD"`."""

    app: AppKey
    state: str
    limit: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class QueueStatisticsCall:
    app: AppKey
    timeout_s: float


@dataclass(frozen=True, slots=True)
class DrainBrokersCall:
    """`broker`: its id; empty: all of the application. `discard_s`: see `QueueClient.drain`."""

    app: AppKey
    broker: str
    undo: bool
    discard_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class SetRouteCall:
    record: pb.RouteRecord
    if_version: int
    author: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class GetRouteCall:
    name: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ListRoutesCall:
    timeout_s: float


@dataclass(frozen=True, slots=True)
class DeleteRouteCall:
    name: str
    if_version: int
    timeout_s: float


Call: TypeAlias = (
    DeployCall
    | StatusCall
    | ListCall
    | DeleteCall
    | ClustersCall
    | RevisionsCall
    | RollbackCall
    | ScaleCall
    | PauseRolloutCall
    | PromoteRolloutCall
    | SplitCall
    | EndpointsCall
    | InferCall
    | ModelMetadataCall
    | SubmitCall
    | ItemCall
    | ListItemsCall
    | ListCallbacksCall
    | QueueStatisticsCall
    | DrainBrokersCall
    | SetRouteCall
    | GetRouteCall
    | ListRoutesCall
    | DeleteRouteCall
)
Proceed: TypeAlias = Callable[[Call], Awaitable[Any]]
Interceptor: TypeAlias = Callable[[Call, Proceed], Awaitable[Any]]


def chain(interceptors: Sequence[Interceptor], handle: Proceed) -> Proceed:
    """`handle` inside the interceptors, the first one outermost."""
    for interceptor in reversed(interceptors):
        handle = _around(interceptor, handle)
    return handle


def _around(interceptor: Interceptor, inner: Proceed) -> Proceed:
    def run(call: Call) -> Awaitable[Any]:
        return interceptor(call, inner)

    return run
