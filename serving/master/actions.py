"""Carries out what the plan asks for. Every action may be repeated; a failed one is planned again."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import replace
from typing import Final

from serving._proto import records_pb2 as pb
from serving.control import Clock
from serving.errors import MeshError, StoreUnavailable, Unavailable
from serving.master.config import MasterConfig
from serving.master.launcher import Launcher
from serving.master.model import (
    Action,
    CreateReplica,
    DrainReplica,
    KillReplica,
    Replica,
    RevokeLease,
    UpdateReplica,
)
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.master.probe import Probes
from serving.master.replica_config import build_launch, build_update
from serving.store.client import EtcdClient
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_REVOKE_S: Final = 1.0
_MAX_REVOKED: Final = 1000

Rows = MutableMapping[ReplicaName, Replica]


class Actions:
    """`apply` notes in the rows what was asked of whom, so that it is not asked twice. `Finish` is the master's own."""

    def __init__(
        self,
        config: MasterConfig,
        launcher: Launcher,
        client: EtcdClient,
        probes: Probes,
        clock: Clock,
        spec_of: Callable[[int], pb.ApplicationSpec | None],
    ) -> None:
        """`spec_of` knows the specs of revisions of which replicas run."""
        self._config = config
        self._launcher = launcher
        self._client = client
        self._probes = probes
        self._clock = clock
        self._spec_of = spec_of
        self._revoked: dict[int, None] = {}

    @property
    def revoked(self) -> frozenset[int]:
        return frozenset(self._revoked)

    async def apply(self, actions: Sequence[Action], order: pb.Placement, rows: Rows) -> str:
        """All of them in order. Returns why the first that failed did; empty when none failed."""
        failed = ""
        for action in actions:
            try:
                await self._one(action, order, rows)
            except MeshError as error:
                _LOG.warning("action failed", extra={"action": repr(action), "error": error.message})
                failed = failed or error.message
        return failed

    async def _one(self, action: Action, order: pb.Placement, rows: Rows) -> None:
        if isinstance(action, CreateReplica):
            await self._create(action.name, order, rows)
        elif isinstance(action, UpdateReplica):
            await self._launcher.update(action.name, build_update(self._config, order, action.name, action.revision))
            _LOG.info("replica updates", extra={"replica": action.name.id, "to_revision": action.revision})
            self._note(rows, action.name, updating_to=action.revision)
        elif isinstance(action, DrainReplica):
            await self._launcher.drain(action.name, action.limit_s)
            _LOG.info("replica drains", extra={"replica": action.name.id, "why": action.why})
            self._note(rows, action.name, retired=True)
        elif isinstance(action, KillReplica):
            await self._kill(action, rows)
        elif isinstance(action, RevokeLease):
            await self._revoke(action)

    async def _create(self, name: ReplicaName, order: pb.Placement, rows: Rows) -> None:
        near = _busiest_node(rows.values(), name.deployment)
        launch = build_launch(self._config, self._of_revision(order, name.revision), name, near=near)
        await self._launcher.create(launch)
        _LOG.info("replica created", extra={"replica": name.id})
        # Known from now on: an actor that dies before the next look is a failure, not one that never was.
        rows[name] = Replica(name=name, state=ReplicaState.PENDING, since=self._clock.now(), present=True)

    def _of_revision(self, order: pb.Placement, revision: int) -> pb.Placement:
        """The order as it was then, where an older replica is replaced while a rollout is paused."""
        if revision == order.stored.revision:
            return order
        spec = self._spec_of(revision)
        if spec is None:
            raise Unavailable(f"the specification of revision {revision} is not known")
        older = pb.Placement()
        older.CopyFrom(order)
        older.stored.spec.CopyFrom(spec)
        return older

    async def _kill(self, action: KillReplica, rows: Rows) -> None:
        await self._launcher.kill(action.name, restart=action.restart)
        keys = {"replica": action.name.id, "why": action.why, "restart": action.restart}
        _LOG.warning("replica killed", extra=keys)
        row = rows.get(action.name)
        if row is None:
            return
        retired = row.retired or (not action.restart and row.state is not ReplicaState.FAILED)
        self._note(rows, action.name, retired=retired, killed_pid=row.pid, killed_at=self._clock.now())

    async def _revoke(self, action: RevokeLease) -> None:
        """Not worth waiting for: with etcd away the lease runs out by itself."""
        try:
            await wait_for(self._client.revoke(action.lease), _REVOKE_S)
        except (StoreUnavailable, asyncio.TimeoutError) as error:
            _LOG.warning("lease could not be revoked", extra={"replica": action.replica_id, "error": str(error)})
            return
        _LOG.info("lease revoked", extra={"replica": action.replica_id, "lease": action.lease, "why": action.why})
        self._revoked[action.lease] = None
        while len(self._revoked) > _MAX_REVOKED:
            del self._revoked[next(iter(self._revoked))]

    def _note(self, rows: Rows, name: ReplicaName, **changes: object) -> None:
        row = rows.get(name)
        if row is not None:
            rows[name] = replace(row, **changes)  # type: ignore[arg-type]
        probe = self._probes.of(name)
        if probe is not None:
            probe.look_soon()


def _busiest_node(rows: Iterable[Replica], deployment: str) -> str:
    """The node on which most replicas of the deployment run; "" where none does."""
    nodes = Counter(row.node for row in rows if row.name.deployment == deployment and row.node and not row.process_gone)
    return max(nodes, key=lambda node: (nodes[node], node), default="")
