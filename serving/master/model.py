"""What the master knows and what it can do: the words of its pure parts. Times are unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState


class ActorState(Enum):
    """An actor's life as Ray tells it."""

    PENDING = "pending"  # asked for, not placed
    ALIVE = "alive"
    RESTARTING = "restarting"
    DEAD = "dead"  # for good


@dataclass(frozen=True, slots=True)
class ActorRow:
    """One actor in Ray's table. `pid` is the last process's, also while it restarts; `death` says why it is dead."""

    name: str
    actor_id: str
    state: ActorState
    pid: int = 0
    node: str = ""
    restarts: int = 0
    required: Mapping[str, float] = field(default_factory=dict)  # as Ray names resources
    death: str = ""


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """What waits at a broker for a deployment, and who is there to take it (`QueueLoad` of records.proto)."""

    queued: int = 0
    running: int = 0
    oldest_age_s: float = 0.0
    work_s: float = 0.0  # of what waits, in one place after the other; 0: not known
    places: int = 0  # items that replicas hold or would take at once
    replicas: int = 0
    longest_run_s: Mapping[str, float] = field(default_factory=dict)  # by id of replica: how long its oldest item runs


@dataclass(frozen=True, slots=True)
class Load:
    """What a replica's process does, and has done since it began (`ReplicaLoad`)."""

    in_flight: int = 0
    requests: int = 0
    within: tuple[tuple[float, int], ...] = ()  # (seconds, requests that took at most so long), rising
    cpu_s: float = 0.0
    waiting: int = 0  # requests that a proxy holds
    failed: int = 0  # of `requests`, by the server's fault
    streams: int = 0  # that ended
    failed_streams: int = 0  # of these, by the server's fault
    queues: Mapping[str, QueueLoad] | None = None  # of a broker, by deployment; None: it is none, or reads a journal


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica's process says of itself (`ReplicaReport`), and whether its health service answers."""

    pid: int
    state: str  # "preparing", "loading", "ready", "unhealthy", "draining", "drained", "failed"
    reason: str = ""
    address: str = ""
    health_address: str = ""  # where its health service answers; empty: at `address`
    registered: bool = False
    revision: int = 0  # whose models serve; 0: not said
    updating_to: int = 0
    failed_revision: int = 0  # of the last update, when it failed
    failed_reason: str = ""
    failed_updates: int = 0  # since the process began
    load: Load | None = field(default=None, compare=False)  # changes all the time: no news by itself
    heard_at: float = field(default=0.0, compare=False)  # monotonic seconds


@dataclass(frozen=True, slots=True)
class Health:
    """The last word of the health checks about one process."""

    pid: int
    hung: bool = False  # accepts connections or packets, answers nothing
    gone: bool = False  # its port is closed: nobody listens there any more


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything observed of one replica now. `actor` None: Ray knows no living actor of that name."""

    actor: ActorRow | None
    report: Report | None = None
    health: Health | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as the master sees it: observation and memory in one row."""

    name: ReplicaName
    state: ReplicaState
    since: float  # in this state
    present: bool  # Ray still has an actor that must be killed to be rid of it
    starting_since: float | None = None  # of the process that starts now
    node: str = ""
    address: str = ""
    pid: int = 0
    restarts: int = 0
    early_ends: int = 0  # processes that ended before they were ready for long
    proven: bool = False  # was ready once
    retired: bool = False  # told to drain, or seen draining
    process_gone: bool = False  # Ray or the health check say so
    unheard: bool = False  # its process runs, but has not said yet what it is doing
    killed_pid: int = 0  # the process for which Ray was told last to end it, and when
    killed_at: float = 0.0
    reason: str = ""
    serves: int = 0  # the revision whose models it has; `revision` reads it
    updating_to: int = 0  # the revision that it was told to go to
    failed_revision: int = 0
    failed_updates: int = 0
    failed_reason: str = ""
    updating_since: float = 0.0
    given_up: int = 0  # the revision whose models ended its process, or would not load: never again in place
    retired_at: float = 0.0

    @property
    def id(self) -> str:
        return self.name.id

    @property
    def revision(self) -> int:
        """The revision that it serves: the one it was made for, or a later one that it was updated to."""
        return self.serves or self.name.revision


def load_of(row: Replica, report: Report | None) -> Load | None:
    """What the replica's process of now has done; None where it has not said, or another process did."""
    return report.load if report is not None and report.pid == row.pid else None


@dataclass(frozen=True, slots=True)
class EndpointFact:
    """An endpoint record of this application in etcd, and the lease that carries it."""

    replica_id: str
    generation: int
    pid: int
    lease: int


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """Replicas of one deployment and revision that failed in a row, the last one at `failed_at`."""

    revision: int
    failures: int
    retry_at: float
    reason: str
    failed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """Of a canary: how many replicas of the wanted revision, and how many older ones, should run.

    With `refill` older ones that are lost are replaced by those of the revision `stable`, not before `refill_at`.
    `abandoned` are revisions that were tried and given up: `stable` replaces them.
    """

    new: int
    old: int
    stable: int
    refill: bool = True
    refill_at: float = 0.0
    abandoned: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted of one deployment.

    `same` are revisions whose replicas are as good as new ones (the deployment did not change in between), `unknown`
    those of which that cannot be said yet: they are neither counted out nor replaced. `updatable` are those from which
    a replica gets to the wanted revision while it runs. During a rollout `max_surge` replicas more may run and
    `max_unavailable` may be missing; a new one counts when it has been ready for `min_ready_s`. A `paused` one replaces
    nothing.
    """

    deployment: str
    replicas: int
    revision: int
    same: frozenset[int] = frozenset()
    unknown: frozenset[int] = frozenset()
    updatable: frozenset[int] = frozenset()
    drain_timeout_s: float = 30.0
    max_surge: int = 1
    max_unavailable: int = 0
    min_ready_s: float = 0.0
    paused: bool = False
    enough: int | None = None  # replicas with which it serves as wanted; None: all of them
    fronts: bool = False  # it is of proxies, which go before what they stand in front of
    trial: Trial | None = None  # while a canary is under way
    held: bool = False  # nobody leaves and nothing new comes until etcd holds where its canary is
    halted: str = ""  # why its canary has failed
    busy: frozenset[str] = frozenset()  # ids of replicas whose items a drain would cut off: others go before them

    @property
    def stands(self) -> bool:
        """Nothing is replaced because of a revision."""
        return self.paused or self.held

    def is_current(self, replica: Replica) -> bool:
        """It serves what is wanted, as far as is known."""
        revision = replica.revision
        return revision == self.revision or revision in self.same or revision in self.unknown

    def settled(self, replica: Replica) -> bool:
        """It is not on its way to something that is not wanted any more."""
        return replica.updating_to in {0, self.revision} | self.same

    def stays(self, replica: Replica) -> bool:
        """It is current, or will be without being replaced."""
        return self.is_current(replica) or replica.revision in self.updatable


@dataclass(frozen=True, slots=True)
class Situation:
    """A snapshot: all that the plan may look at, besides the time."""

    generation: int
    goals: tuple[Goal, ...]
    replicas: tuple[Replica, ...]
    crash_loops: Mapping[str, CrashLoop] = field(default_factory=dict)
    endpoints: tuple[EndpointFact, ...] = ()
    revoked: frozenset[int] = frozenset()  # leases that are revoked already, though the view may still show them
    stopping: bool = False


# ---- what the master can do -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateReplica:
    name: ReplicaName


@dataclass(frozen=True, slots=True)
class UpdateReplica:
    """Has a running replica load the models of another revision and serve them instead."""

    name: ReplicaName
    revision: int


@dataclass(frozen=True, slots=True)
class DrainReplica:
    name: ReplicaName
    limit_s: float
    why: str


@dataclass(frozen=True, slots=True)
class KillReplica:
    """Ends the process. With `restart` Ray starts it again in place, without it the actor is gone."""

    name: ReplicaName
    restart: bool
    why: str


@dataclass(frozen=True, slots=True)
class RevokeLease:
    """Takes a dead process out of discovery."""

    replica_id: str
    lease: int
    why: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left: the status may be deleted and the master ended."""


Action = CreateReplica | UpdateReplica | DrainReplica | KillReplica | RevokeLease | Finish


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in this order, and when the clock alone will give reason to look again (0: never)."""

    actions: tuple[Action, ...]
    look_again_at: float = 0.0
