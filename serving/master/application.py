"""The master of one application: snapshot → pure plan → apply, again and again. Knows Ray only through `Launcher`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.control import Backoff, Clock, Controller, Done, LookAgain, Outcome, Retry, SystemClock
from serving.errors import DataLoss, Unavailable
from serving.master import order as orders
from serving.master import status
from serving.master.actions import Actions
from serving.master.canaries import Canaries, Picture
from serving.master.config import MasterConfig
from serving.master.crash_loop import BackoffLimits, fold
from serving.master.custom_policy import CustomPolicies
from serving.master.launcher import Launcher
from serving.master.memory import Memory, newest
from serving.master.metrics import MasterCollector, MasterNumbers
from serving.master.model import (
    ActorRow,
    CrashLoop,
    Facts,
    Finish,
    Goal,
    Replica,
    Report,
    Situation,
)
from serving.master.names import ReplicaName, parse_replica
from serving.master.phases import ReplicaState
from serving.master.plan import plan
from serving.master.probe import ProbeLimits, Probes
from serving.master.records import MasterRecords
from serving.master.replica import observe, worth_keeping
from serving.master.scaling import SAMPLE_S, Scaling
from serving.master.slowness import Slowness
from serving.master.store_view import EndpointView, PlacementWatch, SpecHistory
from serving.observe import MetricsServer, reached_by, serve_collector
from serving.store import keys
from serving.store.client import EtcdClient
from serving.timeouts import cancel_and_wait, wait_for

_LOG: Final = logging.getLogger(__name__)
_BUSY_S: Final = 0.2  # between two looks at Ray's table while something starts or ends
_QUIET_S: Final = 1.0
_AFTER_ACTION_S: Final = 0.02
_LOAD_S: Final = 3.0


class ApplicationMaster:
    """Belongs to one event loop. `run` works until it is cancelled; `stop` has it drain everything."""

    def __init__(
        self,
        config: MasterConfig,
        order: pb.Placement,
        launcher: Launcher,
        *,
        clock: Clock | None = None,
        probe_limits: ProbeLimits | None = None,
        backoff: BackoffLimits | None = None,
        node_address: str = "",
    ) -> None:
        """`node_address` is what this process's node is reached by; its metrics are found there."""
        self._config = config
        self._clock: Clock = clock or SystemClock()
        self._launcher = launcher
        self._memory = Memory(order)
        self._next_order: pb.Placement | None = None
        self._app = orders.app_key(order)
        self._client = EtcdClient(config.etcd)
        self._backoff = backoff or BackoffLimits()
        self._probes = Probes(launcher, self._wake, tls=config.serving_tls, limits=probe_limits)
        self._endpoints = EndpointView(self._client, self._app, self._wake)
        self._specs = SpecHistory(self._client, self._app, order.stored.uid, self._wake)
        self._records = MasterRecords(
            self._client,
            self._app,
            order.generation,
            self._clock,
            heartbeat_s=config.status_heartbeat_s,
            on_written=self._wake,
        )
        self._controller: Controller[keys.AppKey] = Controller(
            "master", self._reconcile, clock=self._clock, backoff=Backoff(first_s=0.2, limit_s=5.0)
        )
        self._actions = Actions(
            config, launcher, self._client, self._probes, self._clock, lambda revision: self._specs.specs.get(revision)
        )
        self._canaries = Canaries()
        self._slowness = Slowness()
        self._rows: dict[ReplicaName, Replica] = {}
        self._loops: Mapping[str, CrashLoop] = {}
        self._policies = CustomPolicies(config.cache_dir)
        self._scaling = Scaling(self._policies)
        self._status: pb.ApplicationStatus | None = None
        self._store_away_since: float | None = None
        self._finished = asyncio.Event()
        self._node_address = node_address
        self._metrics_address = ""

    # ---- for the agent ----------------------------------------------------------------------------------------------

    @property
    def order(self) -> pb.Placement:
        """The work order that it follows."""
        return self._next_order or self._memory.order

    @property
    def status(self) -> pb.ApplicationStatus | None:
        return self._status

    @property
    def finished(self) -> bool:
        """True when `stop` is through: no replica is left and the status is deleted."""
        return self._finished.is_set()

    async def stop(self) -> None:
        """Has it drain and end all replicas. Returns when that is noted for good; `finished` says when it is over."""
        if not self._memory.stopping:
            self._memory = Memory(self._memory.order, stopping=True)
            await self._launcher.remember(self._memory.to_bytes())
            _LOG.info("told to stop", extra={"app": str(self._app)})
        self._wake()

    # ---- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Raises when one of its tasks ends with an error, which none should."""
        async with AsyncExitStack() as stack:  # goes on with the next one where we are cancelled once more
            metrics = await self._serve_metrics()
            if metrics is not None:
                stack.push_async_callback(metrics.close)
            stack.push_async_callback(self._client.close)
            stack.push_async_callback(self._probes.close)
            stack.push_async_callback(self._policies.close)
            await self._recall()
            self._specs.learn(self._memory.order.stored)
            await self._load_status()
            known = self._status
            self._scaling.restore(known if known is not None and known.uid == self._memory.order.stored.uid else None)
            await self._work()

    async def _work(self) -> None:
        placement = PlacementWatch(
            self._client, keys.placement(self._config.cluster, self._app), self._follow, self._note_store
        )
        parts: tuple[Coroutine[Any, Any, None], ...] = (
            placement.run(),
            self._endpoints.run(),
            self._specs.run(),
            *self._records.running(),
            self._controller.run(),
        )
        tasks = [asyncio.create_task(part) for part in parts]
        self._wake()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancel_and_wait(*tasks)

    async def _serve_metrics(self) -> MetricsServer | None:
        collector = MasterCollector(self._numbers, namespace=self._app.namespace, application=self._app.name)
        host = self._config.listen_host
        server = await serve_collector(collector, self._controller, host=host)
        self._metrics_address = reached_by(
            server,
            advertise_host=self._config.advertise_host,
            listen_host=host,
            node_address=self._node_address,
        )
        return server

    def _numbers(self) -> MasterNumbers:
        """For the thread of the metrics: everything is read once and changed nowhere."""
        order, away, known = self._memory.order, self._store_away_since, self._status
        return MasterNumbers(
            replicas=dict(self._rows),
            wanted={spec.name: spec.replicas.min for spec in order.stored.spec.deployments} | self._scaling.sizes,
            generation=order.generation,
            revision=order.stored.revision,
            serving_revision=known.serving_revision if known is not None else 0,
            crash_loops=len(self._loops),
            canaries=self._canaries.numbers,
            store_away_s=0.0 if away is None else self._clock.monotonic() - away,
        )

    async def _recall(self) -> None:
        while True:
            try:
                kept = await self._launcher.recall()
                break
            except Unavailable as error:
                _LOG.warning("memory cannot be read yet", extra={"error": error.message})
                await self._clock.sleep(_QUIET_S)
        try:
            self._memory = newest(self._memory.order, Memory.from_bytes(kept) if kept else None)
        except DataLoss as error:
            _LOG.error("memory is damaged and is not used", extra={"error": error.message})

    async def _load_status(self) -> None:
        try:
            self._status = await wait_for(self._records.status.load(), _LOAD_S)
        except asyncio.TimeoutError:
            _LOG.warning("etcd does not answer; the times of the status begin anew")

    def _wake(self) -> None:
        self._controller.wake(self._app)

    def _follow(self, order: pb.Placement) -> None:
        if orders.supersedes(order, self.order):
            self._next_order = order
            _LOG.info("new work order", extra={"app": str(self._app), "revision": order.stored.revision})
            self._wake()

    def _note_store(self, reachable: bool, replaced: bool) -> None:
        if reachable and self._store_away_since is not None:
            _LOG.info("etcd answers again", extra={"away_s": self._clock.monotonic() - self._store_away_since})
        if not reachable and self._store_away_since is None:
            self._store_away_since = self._clock.monotonic()
            _LOG.warning("etcd does not answer; what runs keeps running")
        if reachable:
            self._store_away_since = None
        if replaced:
            _LOG.warning("etcd came back empty or older; the status is written back")
            self._records.write_again()
        self._wake()

    # ---- the loop ---------------------------------------------------------------------------------------------------

    async def _reconcile(self, _: keys.AppKey) -> Outcome:
        if self.finished:
            return Done()
        await self._adopt_order()
        endpoints = self._endpoints.facts()  # before the actors: every process that registered is then known
        await self._observe()
        self._recall_load()
        self._scaling.follow(self._memory.order, self._rows.values())
        order, clock = self._memory.order, self._clock
        self._scaling.look(order, self._rows.values(), self._report_of, clock.monotonic(), clock.now())
        if self._scaling.history_changed:
            self._records.history.submit(self._scaling.history(order))
        goals = self._share(self._goals())
        situation = Situation(
            generation=self._memory.order.generation,
            goals=goals,
            replicas=tuple(self._rows.values()),
            crash_loops=self._loops,
            endpoints=endpoints if self._store_away_since is None else (),
            revoked=self._actions.revoked,
            stopping=self._memory.stopping,
        )
        planned = plan(self._app, situation, self._clock.now())
        slow = self._slowness.look(situation, self._memory.order, self._report_of, clock.monotonic())
        failed = await self._actions.apply((*planned.actions, *slow), self._memory.order, self._rows)
        self._report(situation)
        if any(isinstance(action, Finish) for action in planned.actions):
            await self._finish()
            return Done()
        if failed:
            return Retry(failed)
        return LookAgain(self._pause(bool(planned.actions), planned.look_again_at))

    async def _adopt_order(self) -> None:
        order = self._next_order
        if order is None:
            return
        memory = Memory(order, self._memory.stopping)
        await self._launcher.remember(memory.to_bytes())
        self._memory = memory
        self._specs.learn(order.stored)
        if self._next_order is order:
            self._next_order = None

    async def _observe(self) -> None:
        """Brings the rows up to date with Ray's table and the probes, and the crash loops with the rows."""
        table = await self._table()
        await self._probes.follow(table.values(), self._scaling.counted(self._memory.order) | self._canaries.watched)
        now = self._clock.now()
        before, after = self._rows, {}
        for name in {*before, *(found for text in table if (found := parse_replica(text)) is not None)}:
            probe = self._probes.of(name)
            facts = Facts(table.get(str(name)), probe.report if probe else None, probe.health if probe else None)
            limits = orders.limits(self._memory.order, name.deployment)
            after[name] = observe(name, before.get(name), facts, limits, now)
            _log_step(before.get(name), after[name])
        own = self._memory.order.generation
        self._loops = fold(
            self._loops,
            self._goals(after),
            {row.id: row for row in before.values() if row.name.generation == own},
            [row for row in after.values() if row.name.generation == own],
            self._backoff,
            now,
        )
        self._rows = worth_keeping(after, self._loops)

    def _recall_load(self) -> None:
        """Once etcd has said what load was seen before, also on another cluster."""
        if self._records.history.known and not self._scaling.recalled:
            found = self._records.history.stored
            mine = found is not None and found.uid == self._memory.order.stored.uid
            self._scaling.recall(found if mine else None)

    def _report_of(self, name: ReplicaName) -> Report | None:
        probe = self._probes.of(name)
        return probe.report if probe is not None else None

    async def _table(self) -> dict[str, ActorRow]:
        rows = {row.name: row for row in await self._launcher.actors(dead=False)}
        if any(row.present and str(row.name) not in rows for row in self._rows.values()):
            rows = {row.name: row for row in await self._launcher.actors(dead=True)} | rows
            known = {str(name) for name in self._rows}
            rows = {name: row for name, row in rows.items() if name in known or not row.death}
        return rows

    def _goals(self, rows: Mapping[ReplicaName, Replica] | None = None) -> tuple[Goal, ...]:
        order = self._memory.order
        rows_known = self._rows if rows is None else rows
        mine = [name for name in rows_known if name.generation == order.generation]
        running = {rows_known[name].revision for name in mine} | self._canaries.revisions
        for revision in running:
            self._specs.want(revision)
        self._specs.keep({*running, order.stored.revision})
        goals = orders.goals(order, running, self._specs.specs, self._scaling.sizes, self._scaling.busy)
        return tuple(orders.without_given_up(goal, rows_known.values()) for goal in goals)

    def _share(self, goals: tuple[Goal, ...]) -> tuple[Goal, ...]:
        """The goals as canaries allow them; what clients are to know of traffic is handed on to be written."""
        order = self._memory.order
        if self._memory.stopping:
            return goals
        if not self._records.traffic.known:
            return self._canaries.hold(goals, order)
        picture = Picture(
            order,
            self._records.traffic.stored,
            tuple(self._rows.values()),
            self._loops,
            self._specs.specs,
            self._report_of,
            self._clock.now(),
            self._clock.monotonic(),
        )
        goals, record = self._canaries.look(goals, picture)
        if self._records.traffic.stored is not None or self._canaries.needed(order):
            self._records.traffic.submit(record)
        return goals

    def _report(self, situation: Situation) -> None:
        away = self._store_away_since
        away_s = 0.0 if away is None else self._clock.monotonic() - away
        self._status = status.derive(
            self._memory.order, situation, self._status, self._clock.now(), store_away_s=away_s
        )
        self._scaling.tell(self._status)
        self._canaries.tell(self._status)
        self._status.metrics_address = self._metrics_address
        self._records.status.submit(self._status)

    async def _finish(self) -> None:
        """Every replica has ended: the status goes last, and with it the reason to remember anything."""
        await self._records.delete()
        await self._launcher.forget()
        self._finished.set()
        _LOG.info("everything has ended", extra={"app": str(self._app)})

    def _pause(self, acted: bool, look_again_at: float) -> float:
        if acted:
            return _AFTER_ACTION_S
        changing = any(row.state is not ReplicaState.READY and row.present for row in self._rows.values())
        pause = _BUSY_S if changing else SAMPLE_S if self._scaling.sizes else _QUIET_S
        return min(pause, max(0.0, look_again_at - self._clock.now())) if look_again_at else pause


def _log_step(before: Replica | None, after: Replica) -> None:
    if before is None or before.state is not after.state:
        level = logging.WARNING if after.state in (ReplicaState.FAILED, ReplicaState.UNHEALTHY) else logging.INFO
        _LOG.log(
            level,
            "replica is " + after.state.name.lower(),
            extra={"replica": after.id, "reason": after.reason, "pid": after.pid, "restarts": after.restarts},
        )
