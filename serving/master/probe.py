"""What is known of one replica besides Ray's table: its own reports and its health, kept fresh by two tasks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from serving.config import TlsConfig
from serving.errors import Unavailable
from serving.master.health import HealthCheck, HealthLimits
from serving.master.launcher import Launcher
from serving.master.model import ActorRow, ActorState, Health, Report
from serving.master.names import ReplicaName, parse_replica
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_SETTLED: Final = frozenset({"ready"})  # states in which nothing but death or a drain is to be expected


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    changing_s: float = 0.1  # between two reports while it starts, loads other models or drains
    settled_s: float = 2.0
    counted_s: float = 0.5  # of a replica whose load says how many are wanted
    health: HealthLimits = field(default_factory=HealthLimits)


class Probe:
    """One process of a replica. `on_change` is called on the loop when anything new is known."""

    def __init__(
        self,
        name: ReplicaName,
        pid: int,
        launcher: Launcher,
        on_change: Callable[[], None],
        *,
        tls: TlsConfig | None,
        limits: ProbeLimits,
    ) -> None:
        self.name = name
        self.pid = pid
        self.report: Report | None = None
        self.health: Health | None = None
        self.counted = False
        self._launcher = launcher
        self._on_change = on_change
        self._tls = tls
        self._limits = limits
        self._soon = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"probe {name}")
        self._health_task: asyncio.Task[None] | None = None

    def look_soon(self) -> None:
        """Something was asked of the replica: its next report is worth having early."""
        self._soon.set()

    async def close(self) -> None:
        tasks = [task for task in (self._task, self._health_task) if task is not None]
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                _LOG.error("a probe ended with an error", extra={"replica": str(self.name), "error": repr(result)})

    async def _run(self) -> None:
        while True:
            try:
                self._take(await self._launcher.report(self.name))
            except Unavailable as error:
                _LOG.debug("no report", extra={"replica": str(self.name), "error": error.message})
            settled_s = self._limits.counted_s if self.counted else self._limits.settled_s
            wait_s = settled_s if self._settled() else self._limits.changing_s
            try:
                await wait_for(self._soon.wait(), wait_s)
            except asyncio.TimeoutError:
                continue
            self._soon.clear()
            await asyncio.sleep(self._limits.changing_s)  # give what was asked for a moment to begin

    def _settled(self) -> bool:
        report = self.report
        return report is not None and report.state in _SETTLED and report.registered and not report.updating_to

    def _take(self, report: Report) -> None:
        if report.pid != self.pid:
            return  # of a process before or after ours: Ray's table will say
        if report.state == "ready" and report.address and self._health_task is None:
            address = report.health_address or report.address
            check = HealthCheck(address, self.pid, self._judge, tls=self._tls, limits=self._limits.health)
            self._health_task = asyncio.create_task(check.run(), name=f"health {self.name}")
        changed = report != self.report
        self.report = replace(report, heard_at=time.monotonic())  # its load is newer in any case
        if changed:
            self._on_change()

    def _judge(self, health: Health) -> None:
        self.health = health
        self._on_change()


class Probes:
    """The probes of all replicas whose processes run."""

    def __init__(
        self,
        launcher: Launcher,
        on_change: Callable[[], None],
        *,
        tls: TlsConfig | None = None,
        limits: ProbeLimits | None = None,
    ) -> None:
        self._launcher = launcher
        self._on_change = on_change
        self._tls = tls
        self._limits = limits or ProbeLimits()
        self._probes: dict[str, Probe] = {}

    async def follow(self, rows: Iterable[ActorRow], counted: Collection[str] = ()) -> None:
        """One probe for each living process, none for others. The load of deployments in `counted` is asked often."""
        wanted: dict[str, tuple[ReplicaName, int]] = {}
        for row in rows:
            name = parse_replica(row.name)
            if name is not None and row.state is ActorState.ALIVE and row.pid:
                wanted[row.name] = (name, row.pid)
        for key in list(self._probes):
            if key not in wanted or wanted[key][1] != self._probes[key].pid:
                await self._probes.pop(key).close()
        for key, (name, pid) in wanted.items():
            if key not in self._probes:
                self._probes[key] = Probe(
                    name, pid, self._launcher, self._on_change, tls=self._tls, limits=self._limits
                )
            self._probes[key].counted = name.deployment in counted

    def of(self, name: ReplicaName) -> Probe | None:
        return self._probes.get(str(name))

    async def close(self) -> None:
        probes, self._probes = list(self._probes.values()), {}
        for probe in probes:
            await probe.close()
