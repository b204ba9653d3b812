"""The two state machines of a master, each with one table of its transitions. Pure.

An observer sees states, not steps, and may miss some in between: the tables say what can follow in the end, and what
never can.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import Internal


class ReplicaState(IntEnum):
    """As in `records.proto`."""

    PENDING = pb.REPLICA_PENDING  # asked for; Ray waits for resources
    STARTING = pb.REPLICA_STARTING  # its process prepares and loads, or is started again by Ray
    READY = pb.REPLICA_READY  # answers and is in discovery
    DRAINING = pb.REPLICA_DRAINING  # out of discovery, finishes what runs
    UNHEALTHY = pb.REPLICA_UNHEALTHY  # its process lives and does not answer, or says that it cannot serve
    FAILED = pb.REPLICA_FAILED  # could not start; another one is tried in its place
    STOPPED = pb.REPLICA_STOPPED  # drained, or ended on purpose


_S = ReplicaState
REPLICA_TRANSITIONS: Final[Mapping[ReplicaState, frozenset[ReplicaState]]] = {
    _S.PENDING: frozenset({_S.STARTING, _S.READY, _S.DRAINING, _S.UNHEALTHY, _S.FAILED, _S.STOPPED}),
    _S.STARTING: frozenset({_S.PENDING, _S.READY, _S.DRAINING, _S.UNHEALTHY, _S.FAILED, _S.STOPPED}),
    _S.READY: frozenset({_S.PENDING, _S.STARTING, _S.DRAINING, _S.UNHEALTHY, _S.FAILED, _S.STOPPED}),
    _S.UNHEALTHY: frozenset({_S.PENDING, _S.STARTING, _S.READY, _S.DRAINING, _S.FAILED, _S.STOPPED}),
    _S.DRAINING: frozenset({_S.STOPPED}),  # what left discovery for good never comes back, whatever Ray restarts
    _S.FAILED: frozenset(),  # replaced, never revived
    _S.STOPPED: frozenset(),
}


def next_replica_state(previous: ReplicaState | None, observed: ReplicaState) -> ReplicaState:
    """The state to believe: `observed` where the table allows the step, else `previous`."""
    if previous is None or observed in REPLICA_TRANSITIONS[previous]:
        return observed
    return previous


class AppPhase(IntEnum):
    """As in `records.proto`."""

    STARTING = pb.STARTING
    READY = pb.READY
    UPDATING = pb.UPDATING
    DEGRADED = pb.DEGRADED
    FAILED = pb.FAILED
    DELETING = pb.DELETING


_P = AppPhase
_ALIVE: Final = frozenset({_P.STARTING, _P.READY, _P.UPDATING, _P.DEGRADED, _P.FAILED, _P.DELETING})
APP_TRANSITIONS: Final[Mapping[AppPhase, frozenset[AppPhase]]] = {
    _P.STARTING: _ALIVE - {_P.STARTING},
    _P.READY: _ALIVE - {_P.READY},
    _P.UPDATING: _ALIVE - {_P.UPDATING},
    _P.DEGRADED: _ALIVE - {_P.DEGRADED},
    _P.FAILED: _ALIVE - {_P.FAILED},
    _P.DELETING: frozenset(),  # the way out is the end of the master
}


def next_app_phase(previous: AppPhase | None, derived: AppPhase) -> AppPhase:
    """Checks the step. Raises `Internal` for one that the table forbids: the derivation is wrong then."""
    if previous is None or derived == previous or derived in APP_TRANSITIONS[previous]:
        return derived
    raise Internal(f"an application does not go from {previous.name} to {derived.name}")
