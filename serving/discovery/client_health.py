"""Finds endpoints that hang and probes ejected ones back, beside the requests.

A request that runs long says nothing: inference may take minutes. So an endpoint that has not answered anything for a
while is asked whether it is live; one that does not answer twice hangs, and what runs on it goes elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from serving.discovery.client_peer import Peer, PeerKey, is_live
from serving.discovery.client_peers import PeerSet
from serving.timeouts import cancel_and_wait

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """`suspect_after_s` without any answer an endpoint with running requests is asked, `probe_timeout_s` each time."""

    tick_s: float = 0.1
    suspect_after_s: float = 1.0
    probe_timeout_s: float = 1.0
    probes: int = 2


class HealthMonitor:
    """Runs until cancelled; `ejected` and `restored` are called when a peer stops and starts getting work."""

    def __init__(
        self,
        peers: PeerSet,
        config: HealthConfig,
        *,
        ejected: Callable[[Peer], None],
        restored: Callable[[Peer], None],
    ) -> None:
        self._peers = peers
        self._config = config
        self._ejected = ejected
        self._restored = restored
        self._tasks: dict[PeerKey, asyncio.Task[None]] = {}

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._config.tick_s)
                await self._tick(time.monotonic())
        finally:
            await cancel_and_wait(*self._tasks.values())

    async def _tick(self, now: float) -> None:
        for key in self._peers.detector.take_due_probes(now):
            peer = self._peers.get(key)
            if peer is not None:
                self._start(peer, self._probe_back(peer))
        for peer in self._peers.everyone():
            if peer.calls and now - self._quiet_since(peer) > self._config.suspect_after_s:
                self._start(peer, self._check_hang(peer))
        for peer in self._peers.take_idle_gone(self._tasks):
            await peer.close()

    def _quiet_since(self, peer: Peer) -> float:
        oldest = next(iter(peer.calls.values()))
        return max(oldest, peer.answered_at)

    def _start(self, peer: Peer, work: Coroutine[Any, Any, None]) -> None:
        if peer.key in self._tasks:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks[peer.key] = task
        task.add_done_callback(lambda done: self._finished(peer, done))

    def _finished(self, peer: Peer, task: asyncio.Task[None]) -> None:
        self._tasks.pop(peer.key, None)
        if not task.cancelled() and task.exception() is not None:
            _log.error("probing an endpoint failed", extra={"endpoint": str(peer)}, exc_info=task.exception())

    async def _probe_back(self, peer: Peer) -> None:
        live = await is_live(peer, self._config.probe_timeout_s)
        self._peers.detector.probed(peer.key, live, time.monotonic())
        if live:
            self._restored(peer)

    async def _check_hang(self, peer: Peer) -> None:
        for _ in range(self._config.probes):
            if await is_live(peer, self._config.probe_timeout_s):
                peer.answered_at = time.monotonic()
                return
        if not peer.calls:
            return
        _log.warning("endpoint hangs", extra={"endpoint": str(peer), "in_flight": peer.in_flight})
        if self._peers.detector.lost(peer.key, time.monotonic()):
            self._ejected(peer)
        peer.abort_calls()
        await peer.close()  # a connection that hangs is not used again
