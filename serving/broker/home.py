"""The journals that a broker serves: begins, takes, adopts and releases them. Belongs to one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Final

from serving.broker.clients import Clients
from serving.broker.collector import Frozen, resting
from serving.broker.draining import Draining
from serving.broker.keeping import Keeping
from serving.broker.pulls import Pulls
from serving.broker.settings import BrokerSettings
from serving.broker.shard import Shard
from serving.broker.shelf import DiskShelf, Place, Shelf
from serving.broker.upkeep import Upkeep
from serving.control.clock import Clock, SystemClock
from serving.errors import FailedPrecondition, MeshError, Unavailable
from serving.timeouts import cancel_and_wait, unbroken

_LOG: Final = logging.getLogger(__name__)
_TICK_S: Final = 0.1
_ADOPT_S: Final = 1.0
_LOOKS: Final = 3
_LOOKED_AT_S: Final = 0.1
_AGAIN_S: Final = 30.0  # until a journal that could not be opened is tried again


class Home:
    """From `start` to `close`. `shards` are what is served, by journal; new items go to `own`."""

    def __init__(self, settings: BrokerSettings, clock: Clock | None = None) -> None:
        self.shards: dict[str, Shard] = {}
        self.clients: dict[str, Clients] = {}
        self.pulls = Pulls(self.shards)
        self.refused: dict[str, str] = {}  # journals that cannot be opened, and why
        self.reading = False  # a journal is being opened: what waits in it is not known yet
        self.draining = Draining(settings.folder, settings.name)
        self.on_open: Callable[[Shard], None] = lambda _: None
        self.on_release: Callable[[Shard], None] = lambda _: None
        self._settings = settings
        self._clock = clock or SystemClock()
        self._own = ""
        self._frozen = Frozen()
        self._again_at: dict[str, float] = {}  # of those, when they are tried again
        self._places: dict[str, Place] = {}
        self._shelf = _shelf(settings)
        self._upkeep: dict[str, Upkeep] = {}
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def own(self) -> tuple[Shard, Clients]:
        """Raises `Unavailable` while there is none."""
        shard = self.shards.get(self._own)
        if shard is None:
            raise Unavailable("this broker has no journal now: its disk, or its Redis server, does not take one")
        return shard, self.clients[self._own]

    @property
    def others(self) -> list[str]:
        """Journals that were adopted."""
        return [name for name in self.clients if name != self._own]

    async def start(self) -> None:
        """Opens the journals that nobody serves, or begins one. Raises `FailedPrecondition`, `ResourceExhausted`."""
        await unbroken(asyncio.to_thread(self._shelf.prepare))
        await self.draining.recall()
        await self._adopt_first()
        await self._have_own()
        self._task = asyncio.create_task(self._run(), name="broker-home")

    async def close(self) -> None:
        """Lets go of all journals, for others to adopt. May be repeated."""
        self.pulls.refusing = True
        await cancel_and_wait(*(task for task in (self._task, self._looking) if task is not None))
        for name in list(self.shards):
            await self._release(name, discard=self.draining.discards)
        await asyncio.to_thread(self._shelf.close)

    # ------------------------------------------------------------------------------------------------ as time goes by

    async def _run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        next_look = loop.time() + _ADOPT_S
        while True:
            await self._clock.sleep(_TICK_S)
            with _told("upkeep of the journals failed"):
                for upkeep in list(self._upkeep.values()):
                    upkeep.tick()
                self.pulls.waiting()  # a pause may be over
            if loop.time() >= next_look and (self._looking is None or self._looking.done()):
                next_look = loop.time() + _ADOPT_S
                self._looking = asyncio.create_task(self._look(), name="look-for-journals")

    async def _look(self) -> None:
        """Leases and deadlines do not wait for it: large journals are read, and a shared shelf may be away."""
        with _told("looking for journals failed"):
            await self._follow_journals()

    async def _follow_journals(self) -> None:
        for name, shard in list(self.shards.items()):
            if shard.journal.failure is not None:
                self._refuse(name, shard.journal.failure, "journal is given up")
                await self._release(name)
            elif name != self._own and shard.empty:
                await self._release(name, remove=True)
        self._follow_size()
        await self._adopt()
        await self._have_own()

    def _follow_size(self, more: int = 0, *, collect: bool = True) -> None:
        items = sum(shard.limits.items for shard in self.shards.values())
        self._frozen.follow(items + more, collect=collect)

    async def _adopt(self) -> None:
        """What nobody serves. What cannot be opened is tried again after a while: a disk may have room again."""
        loop = asyncio.get_running_loop()
        names = await unbroken(asyncio.to_thread(self._shelf.names))
        for name in self.refused.keys() - set(names):  # it is gone, or somebody else serves it now
            del self.refused[name]
        for name in names:
            if name not in self.shards and loop.time() >= self._again_at.get(name, 0.0):
                try:
                    await self._open(name)
                finally:
                    self.reading = False

    async def _adopt_first(self) -> None:
        """Those who look who serves a journal hold its lock for a moment, for which no other journal is begun."""
        await self._adopt()
        for _ in range(_LOOKS):
            if self.shards or not await unbroken(asyncio.to_thread(self._shelf.names)):
                return
            await asyncio.sleep(_LOOKED_AT_S)
            await self._adopt()

    async def _have_own(self) -> None:
        if self._own in self.shards:
            return
        if not self.shards:
            await self._open(f"j{secrets.token_hex(6)}", begin=True)
        self._own = next(iter(self.shards), "")

    async def _open(self, name: str, *, begin: bool = False) -> None:
        """Raises only for one that is begun: others are left as they are."""
        place = self._shelf.place(name)
        try:
            if not await unbroken(asyncio.to_thread(place.take, begin=begin)):
                return
            self.reading = not begin
            shard = await self._recovered(place)
        except (MeshError, OSError) as error:
            await unbroken(asyncio.to_thread(place.release))
            failure = error if isinstance(error, MeshError) else FailedPrecondition(f"{name} cannot be used: {error}")
            if begin:
                raise failure from error
            self._refuse(name, failure, "journal is left as it is")
            return
        except BaseException:
            await unbroken(asyncio.to_thread(place.release))
            raise
        self.refused.pop(name, None)
        self._places[name] = place
        keeping = Keeping(shard)
        self._upkeep[name] = Upkeep(shard, keeping)
        self.clients[name] = Clients(shard, keeping)
        self.shards[name] = shard
        self.on_open(shard)
        self.pulls.waiting()

    async def _recovered(self, place: Place) -> Shard:
        """Of a place that was taken."""
        opening = asyncio.to_thread(place.open, asyncio.get_running_loop())
        journal = await unbroken(opening, lambda opened: asyncio.to_thread(opened.close))
        shard = Shard(journal, self._settings, self._clock, self.pulls)
        try:
            with resting():
                await shard.recover()
                self._follow_size(shard.limits.items, collect=False)  # all of it is young, and of use
        except BaseException:
            await unbroken(shard.close())
            raise
        return shard

    def _refuse(self, name: str, failure: MeshError, what: str) -> None:
        if name not in self.refused:
            _LOG.error(what, extra={"journal": name, "error": failure.message})
        self.refused[name] = failure.message
        soon = self._shelf.shared and isinstance(failure, Unavailable)  # it is read again as soon as it can be
        self._again_at[name] = asyncio.get_running_loop().time() + (0.0 if soon else _AGAIN_S)

    async def _release(self, name: str, *, remove: bool = False, discard: bool = False) -> None:
        """`remove`: where it is empty; `discard`: in any case."""
        shard = self.shards.pop(name)
        self.on_release(shard)
        del self.clients[name], self._upkeep[name]
        await unbroken(self._put_back(shard, self._places.pop(name), remove=remove, discard=discard))

    async def _put_back(self, shard: Shard, place: Place, *, remove: bool, discard: bool) -> None:
        await shard.close()
        remove = discard or (remove and shard.empty)
        await asyncio.to_thread(place.release, remove=remove)
        _LOG.info("journal released", extra={"journal": shard.name, "removed": remove})


@contextlib.contextmanager
def _told(fault: str) -> Iterator[None]:
    """Errors go to the log: what is done again and again must go on. `fault`: what is said of one of ours."""
    try:
        yield
    except (MeshError, OSError) as error:
        _LOG.warning("journals could not be looked after", extra={"error": str(error)})
    except Exception:  # noqa: BLE001
        _LOG.exception(fault)


def _shelf(settings: BrokerSettings) -> Shelf:
    if settings.redis is None:
        return DiskShelf(settings.folder, settings.sync)
    from serving.broker.redis_log.shelf import RedisShelf  # its client is loaded where it is used

    return RedisShelf(settings.redis, settings.folder, settings.name, settings.sync)
