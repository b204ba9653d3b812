"""A pure world for the master's plan: replicas that start, fail, hang and die, and a master that forgets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from serving.master.crash_loop import BackoffLimits, fold
from serving.master.model import (
    Action,
    ActorRow,
    ActorState,
    CrashLoop,
    CreateReplica,
    DrainReplica,
    EndpointFact,
    Facts,
    Finish,
    Goal,
    Health,
    KillReplica,
    Replica,
    Report,
    RevokeLease,
    Situation,
    UpdateReplica,
)
from serving.master.names import ReplicaName, parse_replica
from serving.master.order import without_given_up
from serving.master.phases import ReplicaState
from serving.master.plan import plan
from serving.master.replica import ReplicaLimits, forgettable, observe
from serving.store.keys import AppKey

APP = AppKey("default", "digits")
LIMITS = ReplicaLimits(start_timeout_s=60.0)
BACKOFF = BackoffLimits()


@dataclass
class Process:
    """What really runs, whatever the master knows of it."""

    pid: int
    state: str = "preparing"
    lease: int = 0
    hung: bool = False
    serves: int = 0
    updating_to: int = 0
    failed_revision: int = 0
    failed_updates: int = 0

    def report(self) -> Report:
        return Report(
            self.pid,
            self.state,
            "bad model",
            registered=self.lease != 0,
            revision=self.serves,
            updating_to=self.updating_to,
            failed_revision=self.failed_revision,
            failed_reason="bad model" if self.failed_revision else "",
            failed_updates=self.failed_updates,
        )


@dataclass
class Actor:
    name: ReplicaName
    process: Process | None
    restarts: int = 0
    max_restarts: int = -1
    dead: bool = False


@dataclass
class World:
    """`bad` revisions never load. Time moves by hand."""

    goals: tuple[Goal, ...]
    generation: int = 1
    now: float = 1000.0
    bad: frozenset[int] = frozenset()
    deadly: frozenset[int] = frozenset()  # loading them ends the process
    endless: frozenset[int] = frozenset()  # loading them never ends
    stopping: bool = False
    actors: dict[ReplicaName, Actor] = field(default_factory=dict)
    endpoints: dict[str, EndpointFact] = field(default_factory=dict)
    rows: dict[ReplicaName, Replica] = field(default_factory=dict)
    loops: dict[str, CrashLoop] = field(default_factory=dict)
    finished: bool = False
    next_pid: int = 100
    unheard: set[int] = field(default_factory=set)

    # ---- the master -------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """The master was killed and starts again. Until `hear` no replica has answered the new one."""
        self.rows, self.loops = {}, {}
        self.unheard = {actor.process.pid for actor in self.actors.values() if actor.process is not None}

    def hear(self) -> None:
        self.unheard.clear()

    def look(self) -> Situation:
        endpoints = tuple(self.endpoints.values())
        before, after = self.rows, {}
        for name in {*before, *(name for name, actor in self.actors.items() if not actor.dead)}:
            after[name] = observe(name, before.get(name), self._facts(name), LIMITS, self.now)
        goals = tuple(without_given_up(goal, after.values()) for goal in self.goals)
        self.loops = fold(
            self.loops,
            goals,
            {row.id: row for row in before.values()},
            after.values(),
            BACKOFF,
            self.now,
        )
        ended = {name for name, row in after.items() if not row.present and row.state is ReplicaState.FAILED}
        self.rows = {name: row for name, row in after.items() if not forgettable(row) and name not in ended}
        return Situation(
            generation=self.generation,
            goals=goals,
            replicas=tuple(self.rows.values()),
            crash_loops=self.loops,
            endpoints=endpoints,
            stopping=self.stopping,
        )

    def _facts(self, name: ReplicaName) -> Facts:
        actor = self.actors.get(name)
        if actor is None:
            return Facts(None)
        process = actor.process
        if actor.dead or process is None:
            state = ActorState.DEAD if actor.dead else ActorState.RESTARTING
            return Facts(ActorRow(str(name), "", state, restarts=actor.restarts, death="died"))
        row = ActorRow(str(name), "", ActorState.ALIVE, pid=process.pid, restarts=actor.restarts)
        known = self.rows.get(name)
        if process.pid in self.unheard:
            return Facts(row)
        if process.hung:
            heard = known is not None and known.pid == process.pid and not known.unheard
            return Facts(row, process.report() if heard else None, Health(process.pid, hung=True) if heard else None)
        return Facts(row, process.report())

    def actions(self) -> tuple[Action, ...]:
        return plan(APP, self.look(), self.now).actions

    def apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self.apply_one(action)

    def apply_one(self, action: Action) -> None:
        if isinstance(action, CreateReplica):
            self._create(action.name)
        elif isinstance(action, UpdateReplica):
            self._update(action)
        elif isinstance(action, DrainReplica):
            self._drain(action.name)
        elif isinstance(action, KillReplica):
            self._kill(action)
        elif isinstance(action, RevokeLease):
            self.endpoints = {key: fact for key, fact in self.endpoints.items() if fact.lease != action.lease}
        elif isinstance(action, Finish):
            self.finished = True

    def _create(self, name: ReplicaName) -> None:
        found = self.actors.get(name)
        if found is None or found.dead:
            self.actors[name] = Actor(name, self._process(name))
        self.rows[name] = Replica(name=name, state=ReplicaState.PENDING, since=self.now, present=True)

    def _process(self, name: ReplicaName) -> Process:
        self.next_pid += 1
        return Process(self.next_pid, serves=name.revision)  # whatever the one before it was updated to

    def _update(self, action: UpdateReplica) -> None:
        actor = self.actors.get(action.name)
        if actor is None or actor.process is None or actor.process.hung or actor.process.state == "failed":
            return
        if actor.process.state not in ("draining", "drained"):
            actor.process.updating_to = action.revision
        if action.name in self.rows:
            self.rows[action.name] = replace(self.rows[action.name], updating_to=action.revision)

    def _drain(self, name: ReplicaName) -> None:
        actor = self.actors.get(name)
        if actor is None or actor.process is None or actor.process.hung:
            return
        if actor.process.state == "ready" and actor.process.updating_to not in self.endless:
            actor.process.state = "draining"
            self.endpoints.pop(name.id, None)
        if name in self.rows:
            self.rows[name] = replace(self.rows[name], retired=True)  # the time is noted at the next look

    def _kill(self, action: KillReplica) -> None:
        actor = self.actors.get(action.name)
        row = self.rows.get(action.name)
        if row is not None:
            retired = row.retired or (not action.restart and row.state is not ReplicaState.FAILED)
            self.rows[action.name] = replace(row, retired=retired, killed_pid=row.pid, killed_at=self.now)
        if actor is None:
            return
        if action.restart:
            self.die(action.name)
        else:
            del self.actors[action.name]

    # ---- the world --------------------------------------------------------------------------------------------------

    def die(self, name: ReplicaName) -> None:
        """Its endpoint stays until its lease is revoked."""
        actor = self.actors[name]
        actor.process = None
        actor.restarts += 1
        if 0 <= actor.max_restarts < actor.restarts:
            actor.dead = True

    def progress(self, name: ReplicaName) -> None:
        """One step of a replica's own life."""
        actor = self.actors.get(name)
        if actor is None or actor.dead:
            return
        if actor.process is None:
            actor.process = self._process(name)
            return
        process = actor.process
        if process.hung:
            return
        if process.state == "preparing":
            process.state = "loading"
        elif process.state == "loading":
            if name.revision in self.endless:
                return
            if name.revision in self.deadly:
                self.die(name)
                return
            process.state = "failed" if name.revision in self.bad else "ready"
            if process.state == "ready":
                process.lease = process.pid
                self.endpoints[name.id] = EndpointFact(name.id, name.generation, process.pid, process.lease)
        elif process.updating_to in self.endless:
            return  # it hears nothing meanwhile, not even that it is to drain
        elif process.state == "draining":
            process.state = "drained"
        elif process.state == "ready" and process.updating_to:
            wanted, process.updating_to = process.updating_to, 0
            if wanted in self.deadly:
                self.die(name)
                return
            failed = wanted in self.bad
            process.failed_revision = wanted if failed else 0
            process.failed_updates += failed
            process.serves = process.serves if failed else wanted

    def everything_goes_on(self) -> None:
        for name in list(self.actors):
            self.progress(name)

    def settle(self, rounds: int = 400) -> None:
        """Looks, acts and moves on until nothing is left to do."""
        quiet = 0
        self.hear()
        for _ in range(rounds):
            actions = self.actions()
            self.apply(actions)
            self.everything_goes_on()
            self.now += 1.0
            quiet = 0 if actions else quiet + 1
            if quiet > 70:  # longer than the longest backoff
                return

    # ---- what can be said of it -------------------------------------------------------------------------------------

    def serving(self, deployment: str) -> list[ReplicaName]:
        """Replicas that answer requests and are in discovery, whatever the master believes."""
        return [
            name
            for name, actor in self.actors.items()
            if name.deployment == deployment
            and actor.process is not None
            and not actor.dead
            and not actor.process.hung
            and actor.process.state == "ready"
            and name.id in self.endpoints
        ]

    def serves(self, deployment: str) -> list[int]:
        """The revisions whose models the serving replicas have, sorted."""
        processes = [self.actors[name].process for name in self.serving(deployment)]
        return sorted(process.serves for process in processes if process is not None)

    def living(self, deployment: str) -> list[ReplicaName]:
        """Replicas that take resources and were not told to leave."""
        return [
            name
            for name, actor in self.actors.items()
            if name.deployment == deployment
            and not actor.dead
            and (actor.process is None or actor.process.state not in ("draining", "drained", "failed"))
        ]


def name_of(text: str) -> ReplicaName:
    found = parse_replica(f"replica:{APP}:g1:{text}")
    assert found is not None
    return found
