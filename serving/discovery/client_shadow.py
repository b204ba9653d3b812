"""Copies of requests for a deployment that nobody depends on yet: their answers and failures are dropped."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import grpc.aio

from serving.discovery.client_config import ClientStats
from serving.discovery.client_peers import PeerSet
from serving.discovery.client_request import Request
from serving.timeouts import cancel_and_wait

SHADOW: Final = "mesh-shadow"  # metadata of a copy, as in cpp_ext/proxy
MAX_COPIES: Final = 100  # at one time
MAX_BYTES: Final = 64 << 20  # that they hold; they share them with their requests
LONGEST_S: Final = 10.0


class Shadows:
    """Sends copies beside the requests of one client. Belongs to its loop."""

    def __init__(self, peers: PeerSet, stats: ClientStats) -> None:
        self._peers = peers
        self._stats = stats
        self._running: set[asyncio.Task[None]] = set()
        self._bytes = 0

    def send(self, request: Request, deployment: str) -> None:
        """Begins to send a copy to `deployment`; more than the bounds allow are not sent, and counted."""
        size = len(request.payload)
        if len(self._running) >= MAX_COPIES or self._bytes + size > MAX_BYTES:
            self._stats.shadows_dropped += 1
            return
        self._bytes += size
        task = asyncio.create_task(self._send(request, deployment), name="shadow")
        self._running.add(task)
        task.add_done_callback(lambda done: self._ended(done, size))

    async def close(self) -> None:
        await cancel_and_wait(*self._running)

    async def _send(self, request: Request, deployment: str) -> None:
        now = time.monotonic()
        _, model, version = request.target
        peer = self._peers.route((deployment, model, version)).pick((), now)
        left_s = min(request.deadline - now, LONGEST_S)
        if peer is None or left_s <= 0:
            self._stats.shadows_dropped += 1
            return
        self._stats.shadows += 1
        metadata = (*request.metadata, (SHADOW, "1"))
        call = peer.stub(request.method)(request.payload, timeout=left_s, metadata=metadata)
        peer.calls[call] = now
        try:
            await call
        except grpc.aio.AioRpcError:
            self._stats.shadows_failed += 1
        else:
            peer.answered_at = time.monotonic()
        finally:
            del peer.calls[call]
            peer.aborted.discard(call)

    def _ended(self, task: asyncio.Task[None], size: int) -> None:
        self._running.discard(task)
        self._bytes -= size
        if not task.cancelled() and task.exception() is not None:
            self._stats.shadows_failed += 1  # such as a channel that is closed meanwhile: nobody waits for this answer
