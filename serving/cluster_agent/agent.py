"""The agent's two loops: masters by placement, and the cluster's record. Knows Ray only through `RaySide`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Final, Protocol

from serving._proto import records_pb2 as pb
from serving.cluster_agent.claim import Claim, Claimant
from serving.cluster_agent.config import AgentConfig
from serving.cluster_agent.identity import is_dead
from serving.cluster_agent.metrics import AgentCollector, AgentNumbers
from serving.cluster_agent.model import (
    Action,
    AskOrder,
    ClusterFacts,
    EndMaster,
    Judge,
    Master,
    Placed,
    Situation,
    StartMaster,
)
from serving.cluster_agent.plan import plan
from serving.cluster_agent.record import cluster_record, same_but_for_time
from serving.cluster_agent.registration import Registration
from serving.cluster_agent.store_side import Placements, restore, why_end
from serving.control import Backoff, Clock, Controller, LookAgain, Outcome, Retry, SystemClock
from serving.errors import AlreadyExists, Conflict, FailedPrecondition, MeshError, StoreUnavailable, Unavailable
from serving.master.model import ActorState
from serving.master.names import MasterName, parse_master
from serving.master.order import app_key, supersedes
from serving.observe import MetricsServer, reached_by, serve_collector
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.timeouts import cancel_and_wait, wait_for

_LOG: Final = logging.getLogger(__name__)
_LOOK_S: Final = 0.5
_ENDING_S: Final = 0.1
_RAY_TIMEOUT_S: Final = 3.0
_PING_S: Final = 5.0
_MAX_SILENCE: Final = 3  # unanswered calls after which a master counts as hung


class RayCalls(Protocol):
    """The seam of the agent's tests: `ray_side.RaySide` is the real one."""

    async def connect(self) -> None: ...
    async def facts(self) -> ClusterFacts: ...
    async def start_master(self, order: pb.Placement) -> None: ...
    async def work_order(self, name: MasterName) -> pb.Placement: ...
    async def stop(self, name: MasterName) -> bool: ...
    async def ping(self, name: MasterName) -> None: ...
    async def kill(self, name: MasterName, *, restart: bool) -> None: ...
    async def read_claim(self) -> Claim | None: ...
    async def write_claim(self, claim: Claim) -> None: ...


class Agent:
    """Belongs to one event loop. `run` works until it is cancelled, or another agent of the same name is found."""

    def __init__(self, config: AgentConfig, agent_id: str, ray: RayCalls, *, clock: Clock | None = None) -> None:
        self._config = config
        self._agent_id = agent_id
        self._ray = ray
        self._clock: Clock = clock or SystemClock()
        self._client = EtcdClient(config.etcd)
        self._registration = Registration(
            self._client, config.etcd, config.cluster, agent_id, ttl_s=config.lease_ttl_s, clock=self._clock
        )
        self._placements = Placements(self._client, config.cluster, self._heard)
        self._masters_loop: Controller[str] = Controller(
            "agent", self._reconcile, clock=self._clock, backoff=Backoff(first_s=0.2, limit_s=5.0)
        )
        self._orders: dict[MasterName, pb.Placement] = {}
        self._ending: set[MasterName] = set()
        self._facts: ClusterFacts | None = None
        self._ray_silent_since_s: float | None = self._clock.monotonic()
        self._publish_now = asyncio.Event()
        self._published: pb.ClusterRecord | None = None
        mine = Claim(agent_id, config.cluster, ",".join(config.etcd.endpoints))
        self._claimant = Claimant(mine, config.mesh, is_dead)
        self._metrics: MetricsServer | None = None
        self._record_loop: asyncio.Task[None] | None = None
        self._placed = 0
        self._killed = 0

    async def run(self) -> None:
        """Raises `AlreadyExists` when the cluster has another agent, `FailedPrecondition` for a wrong configuration."""
        collector = AgentCollector(self._numbers, self._config.cluster)
        async with contextlib.AsyncExitStack() as stack:  # goes on with the next one where we are cancelled once more
            self._metrics = await serve_collector(collector, self._masters_loop, host=self._config.listen_host)
            if self._metrics is not None:
                stack.push_async_callback(self._metrics.close)
            stack.push_async_callback(self._client.close)
            stack.push_async_callback(self._placements.close)
            await self._placements.start()
            await self._work()

    async def _work(self) -> None:
        self._record_loop = asyncio.create_task(self._look_after_record())
        loops = [self._record_loop, *(asyncio.create_task(part) for part in (self._watch_ray(), self._watch_masters()))]
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled():  # the first one is, when the record is taken back
                    task.result()
        finally:
            await cancel_and_wait(*loops)

    def _numbers(self) -> AgentNumbers:
        """For the thread of the metrics: everything is read once and changed nowhere."""
        facts = self._facts
        return AgentNumbers(
            actors=facts.actors if facts is not None else (),
            nodes=len(facts.nodes) if facts is not None else 0,
            placements=self._placed,
            ending=len(self._ending),
            masters_killed=self._killed,
            registered=self._published is not None,
            ray_away_s=self._ray_away_s(),
            store_stale_s=self._placements.stale_for_s,
        )

    async def withdraw(self) -> None:
        """Takes the cluster's record back for good, and ends `run`: for an orderly end. Masters and replicas go on."""
        if self._record_loop is not None:  # else it would be written once more by news that come meanwhile
            await cancel_and_wait(self._record_loop)
        await self._registration.withdraw()

    def _heard(self, replaced: bool) -> None:
        if replaced:
            _LOG.warning("etcd came back empty or older; the cluster's record and lost placements are written back")
            self._published = None
            self._publish_now.set()
        self._masters_loop.wake(self._config.cluster)

    # ---- Ray: one look feeds both loops ------------------------------------------------------------------------------

    async def _watch_ray(self) -> None:
        """Joins the cluster, keeps looking at it, and runs the masters' loop while this agent holds the record."""
        while not await self._joined():
            await self._clock.sleep(1.0)
        masters: asyncio.Task[None] | None = None
        claimed = False
        try:
            while True:
                await self._look()
                if self._published is not None:  # after the record: of two agents of one mesh, that one says it better
                    claimed = await self._claim() or claimed
                if masters is None and claimed:
                    masters = asyncio.create_task(self._masters_loop.run())
                if masters is not None and masters.done():
                    masters.result()
                await self._clock.sleep(_LOOK_S)
        finally:
            if masters is not None:
                await cancel_and_wait(masters)

    async def _joined(self) -> bool:
        try:
            await self._ray.connect()
        except FailedPrecondition:
            raise
        except MeshError as error:
            _LOG.error("cannot join the Ray cluster yet", extra={"error": error.message})
            return False
        _LOG.info("joined the Ray cluster", extra={"address": self._config.ray_address})
        return True

    async def _claim(self) -> bool:
        """True when this agent holds the mesh's name. Raises `AlreadyExists` when another mesh's agent has it."""
        try:
            found = await wait_for(self._ray.read_claim(), _RAY_TIMEOUT_S)
            wanted = self._claimant.look(found, self._clock.monotonic())
            if wanted is None:
                return False
            await wait_for(self._ray.write_claim(wanted), _RAY_TIMEOUT_S)
        except (Unavailable, asyncio.TimeoutError) as error:
            _LOG.warning("the mesh's name cannot be claimed now", extra={"error": str(error) or "no answer in time"})
            return False
        return True

    async def _look(self) -> None:
        began_s = self._clock.monotonic()
        try:
            facts = await wait_for(self._ray.facts(), _RAY_TIMEOUT_S)
        except (Unavailable, asyncio.TimeoutError) as error:
            _LOG.warning("Ray does not answer", extra={"error": str(error) or "no answer in time"})
            if self._ray_silent_since_s is None:  # a look that took longer: the machine stood still, and asked nothing
                now_s = self._clock.monotonic()
                self._ray_silent_since_s = max(began_s, now_s - _RAY_TIMEOUT_S)
            return
        self._ray_silent_since_s = None
        before, self._facts = self._facts, facts
        if before is None or before.actors != facts.actors or before.nodes != facts.nodes:
            self._publish_now.set()
            self._masters_loop.wake(self._config.cluster)

    # ---- the record --------------------------------------------------------------------------------------------------

    async def _look_after_record(self) -> None:
        """Writes the record on change and now and then; takes it back while Ray does not answer."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await wait_for(self._publish_now.wait(), self._config.refresh_s)
            self._publish_now.clear()
            away_s = self._ray_away_s()
            try:
                if self._facts is None:
                    continue
                if away_s > self._config.ray_away_s:
                    if self._published is not None:
                        _LOG.error(
                            "Ray is away: the cluster's record is taken back", extra={"away_s": round(away_s, 1)}
                        )
                        self._published = None
                    await self._registration.withdraw()
                else:
                    await self._publish(self._facts)
            except AlreadyExists:
                raise
            except (StoreUnavailable, Conflict) as error:
                _LOG.warning("the cluster's record cannot be written now", extra={"error": error.message})
                await self._clock.sleep(_LOOK_S)
                self._publish_now.set()

    def _ray_away_s(self) -> float:
        since_s = self._ray_silent_since_s
        return 0.0 if since_s is None else self._clock.monotonic() - since_s

    async def _publish(self, facts: ClusterFacts) -> None:
        config = self._config
        record = cluster_record(
            config.cluster,
            self._agent_id,
            config.labels,
            facts,
            self._clock.now(),
            metrics_address=reached_by(
                self._metrics,
                advertise_host=config.advertise_host,
                listen_host=config.listen_host,
                node_address=facts.here,
            ),
        )
        news = self._published is None or not same_but_for_time(self._published, record)
        await self._registration.publish(record)
        if self._published is None:
            _LOG.info("the cluster is registered", extra={"nodes": len(record.nodes), "agent": self._agent_id})
        elif news:
            _LOG.debug("the cluster's record changed")
        self._published = record
        self._masters_loop.wake(self._config.cluster)

    # ---- masters -----------------------------------------------------------------------------------------------------

    async def _reconcile(self, _: str) -> Outcome:
        if self._facts is None:
            return LookAgain(_LOOK_S)
        placements = self._placements.known()
        self._placed = len(placements)
        situation = Situation(placements, self._masters(self._facts, placements), self._placements.fresh)
        failed = ""
        for action in plan(situation):
            try:
                await self._apply(action)
            except StoreUnavailable as error:
                _LOG.info("waits for etcd", extra={"action": type(action).__name__, "error": error.message})
            except MeshError as error:
                failed = failed or error.message
                _LOG.warning("action failed", extra={"action": repr(action)[:500], "error": error.message})
        return Retry(failed) if failed else LookAgain(_ENDING_S if self._ending else _LOOK_S)

    def _masters(self, facts: ClusterFacts, placements: Mapping[AppKey, Placed]) -> tuple[Master, ...]:
        running = {name: row for row in facts.actors if (name := parse_master(row.name)) is not None}
        self._orders = {name: order for name, order in self._orders.items() if name in running}
        self._ending &= running.keys()
        for name, order in self._orders.items():
            placed = placements.get(name.app)
            if placed is not None and supersedes(placed.order, order):
                self._orders[name] = placed.order  # the master follows it by itself
        return tuple(
            Master(name, row, self._orders.get(name), ending=name in self._ending) for name, row in running.items()
        )

    async def _apply(self, action: Action) -> None:
        if isinstance(action, StartMaster):
            name = MasterName(app_key(action.order), action.order.generation)
            await self._ray.start_master(action.order)
            _LOG.info("master started", extra={"master": str(name), "revision": action.order.stored.revision})
            await self._look()
        elif isinstance(action, AskOrder):
            self._orders[action.name] = await self._ray.work_order(action.name)
        elif isinstance(action, EndMaster):
            await self._end(action.name, action.why)
        elif isinstance(action, Judge):
            await self._judge(action)
        elif await restore(self._client, action.order, action.mod_revision):
            _LOG.warning("an older work order was replaced", extra={"app": str(app_key(action.order))})

    async def _judge(self, action: Judge) -> None:
        why = await why_end(self._client, action.order)
        if why:
            await self._end(action.name, why)
        elif await restore(self._client, action.order, 0):
            _LOG.warning("the store lost a placement; it was written back", extra={"master": str(action.name)})

    async def _end(self, name: MasterName, why: str) -> None:
        """Has it drain. Its process is ended when nothing of it runs any more; until then this is repeated."""
        if name not in self._ending:
            self._ending.add(name)
            _LOG.info("master ends", extra={"master": str(name), "why": why})
        if await self._ray.stop(name):
            await self._ray.kill(name, restart=False)
            _LOG.info("master ended", extra={"master": str(name)})
            await self._look()

    async def _watch_masters(self) -> None:
        """Starts masters again that live and do not answer. Dead ones are Ray's to start."""
        silence: dict[MasterName, int] = {}
        while True:
            await self._clock.sleep(_PING_S)
            rows = self._facts.actors if self._facts is not None else ()
            alive = [name for row in rows if row.state is ActorState.ALIVE and (name := parse_master(row.name))]
            answers = await asyncio.gather(*(self._ray.ping(name) for name in alive), return_exceptions=True)
            silence = {
                name: silence.get(name, 0) + 1
                for name, answer in zip(alive, answers, strict=True)
                if isinstance(answer, BaseException)
            }
            for name in [name for name, times in silence.items() if times >= _MAX_SILENCE]:
                _LOG.error("master does not answer and is started again", extra={"master": str(name)})
                del silence[name]
                self._killed += 1
                try:
                    await self._ray.kill(name, restart=True)
                except Unavailable as error:
                    _LOG.warning("master could not be killed", extra={"error": error.message})
