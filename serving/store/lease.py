"""A lease that is renewed whatever its owner's event loop does, with a signal when it must be taken for lost."""

from __future__ import annotations

import asyncio

from serving.config import EtcdConfig
from serving.errors import FailedPrecondition, InvalidArgument
from serving.store.lease_thread import LeaseThread


class Lease:
    """One lease of etcd, taken once. After `lost` its owner takes a new `Lease`.

    A thread with an event loop and a client of its own renews it at a third of its time to live: a busy loop would
    starve it, and a healthy process would vanish. `lost` is set in the loop that called `start`; `held` answers at
    once, from any thread and while that loop is blocked.
    """

    def __init__(self, config: EtcdConfig, *, ttl_s: int) -> None:
        """Raises `InvalidArgument` for a time to live under one second."""
        if ttl_s < 1:
            raise InvalidArgument(f"a lease lives at least 1 s, not {ttl_s}")
        self.ttl_s = ttl_s
        self.id = 0
        self.lost = asyncio.Event()
        self._config = config
        self._thread: LeaseThread | None = None

    async def start(self) -> int:
        """Takes the lease and starts to renew it; returns its id.

        Raises as `EtcdClient` does, and may then be repeated; `FailedPrecondition` when it was started before.
        """
        if self._thread is not None:
            raise FailedPrecondition("this lease was started already: take a new one")
        loop = asyncio.get_running_loop()
        thread = LeaseThread(self._config, self.ttl_s, on_end=lambda: loop.call_soon_threadsafe(self.lost.set))
        self._thread = thread
        try:
            self.id = await thread.start()
        except BaseException:
            await thread.stop(revoke=True)
            self._thread = None
            self.lost.clear()
            raise
        return self.id

    def held(self) -> bool:
        """True while etcd cannot have ended it. Callable from any thread."""
        return self._thread is not None and self._thread.held()

    async def revoke(self) -> None:
        """Ends the lease, and with it the keys that it carries; sets `lost`. May be repeated.

        An etcd that does not answer is no error: the lease then runs out by itself.
        """
        await self._end(revoke=True)

    async def abandon(self) -> None:
        """Stops renewing without telling etcd: the lease runs out by itself. Sets `lost`."""
        await self._end(revoke=False)

    async def _end(self, *, revoke: bool) -> None:
        if self._thread is not None:
            await self._thread.stop(revoke=revoke)
        self.lost.set()
