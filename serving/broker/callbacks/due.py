"""The callbacks of one journal: which are due, and what came of them. Belongs to the journal's event loop.

A callback becomes due in the commit of its item's end, and is known here after it: nothing is sent of what a crash
could undo. The item is kept for as long.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from serving.broker.callbacks import records
from serving.broker.callbacks.records import CallbackState, Kept, Record
from serving.broker.items import NEVER, Item
from serving.broker.journal_changes import Change
from serving.errors import Conflict, FailedPrecondition, MeshError, NotFound

if TYPE_CHECKING:
    from serving.broker.shard import Shard

_LOG: Final = logging.getLogger(__name__)
_LOOK_S: Final = 0.05
_AGAIN_S: Final = 1.0  # after an outcome that could not be written


@dataclass(slots=True, eq=False)
class Due:
    """One that is due. `at`: unix seconds of its next try, NEVER while it is sent. `gone`: it is not to be sent."""

    home: DueCallbacks
    number: int
    tenant: str
    receiver: str
    at: float
    gone: bool = False


class DueCallbacks:
    """`Shard.callbacks`. `on_due` hears of each one that becomes due."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.entries: dict[int, Due] = {}
        self.by_tenant: Counter[str] = Counter()  # of the entries
        self.totals = records.Totals()
        self.on_due: Callable[[Due], None] = lambda _: None

    # ------------------------------------------------------------------------------------------------ for the shard

    async def recover(self) -> None:
        """Reads what is due."""
        after = 0
        while rows := await self.shard.journal.read(partial(records.due, after=after)):
            after = rows[-1][0]
            for number, tenant, receiver, at in rows:
                self.entries[number] = Due(self, number, tenant, receiver, at)
                self.by_tenant[tenant] += 1
        await self.measure()

    def ended(self, item: Item) -> None:
        """Its end is on disk."""
        if item.calls_back and item.callback is not None:
            self._add(Due(self, item.number, item.tenant, item.callback.receiver, item.ended))

    def withdraw(self, number: int) -> None:
        """Its item waits again: the next end is told of instead."""
        due = self.entries.pop(number, None)
        if due is not None:
            due.gone = True
            self.by_tenant[due.tenant] -= 1
            if not self.by_tenant[due.tenant]:
                del self.by_tenant[due.tenant]

    # ------------------------------------------------------------------------------------------------ for who sends

    async def measure(self) -> None:
        """Brings `totals` up to date."""
        self.totals = await self.shard.journal.read(records.totals)

    async def read(self, due: Due, most_bytes: int) -> Kept | None:
        """What is to be sent; None: nothing any more."""
        found = await self.shard.journal.read(partial(records.kept, number=due.number, most_bytes=most_bytes))
        return found if found is not None and found.record.state is CallbackState.DUE and not due.gone else None

    async def settle(self, due: Due, kept: Kept, after: Record) -> None:
        """Writes what came of a try, until the disk takes it: it would be sent again otherwise."""
        while True:
            while due.number in self.shard.claimed:  # noqa: ASYNC110 - its item is put back, or not: soon on disk
                await asyncio.sleep(_LOOK_S)
            if due.gone:
                return
            error = await self._write(kept.item, after)
            if error is None:
                break
            keys = {"journal": self.shard.name, "item": self.shard.id_of(due.number), "error": error.message}
            _LOG.warning("outcome of a callback could not be written", extra=keys)
            await asyncio.sleep(_AGAIN_S)
        if after.state is CallbackState.DUE:
            due.at = after.next
        else:
            self.withdraw(due.number)

    # ------------------------------------------------------------------------------------------------ for operators

    async def kept(self, number: int) -> Kept:
        """Raises `NotFound` for an item without a callback, and one that is not there."""
        found = await self.shard.journal.read(partial(records.kept, number=number))
        if found is None:
            raise NotFound(f"item {self.shard.id_of(number)} has no callback, or is not kept any more")
        return found

    async def page(self, state: CallbackState, after: int, limit: int) -> tuple[list[Kept], int | None]:
        """Those that are DUE or DEAD, and where the next page begins."""
        return await self.shard.journal.read(partial(records.page, state=state, after=after, limit=limit))

    async def retry(self, number: int) -> Kept:
        """Sends one that is DEAD again, with its tries forgotten, and one that is DUE at once.

        Raises `NotFound`, `FailedPrecondition` for others, and `Conflict` while its item is being changed.
        """
        shard = self.shard
        if number in shard.claimed:
            raise Conflict(f"item {shard.id_of(number)} is being changed: look at it again")
        shard.claimed.add(number)  # so that it is not forgotten meanwhile
        try:
            found = await self.kept(number)
            waits = self.entries.get(number)
            if waits is not None:
                shard.claimed.discard(number)
                self._hasten(waits)
                return found
            if found.record.state is not CallbackState.DEAD:
                raise FailedPrecondition(
                    f"the callback of item {shard.id_of(number)} is {found.record.state.name}: only what is DEAD or "
                    "DUE is sent again"
                )
        except BaseException:
            shard.claimed.discard(number)
            raise
        now = shard.clock.now()
        after = replace(found, record=replace(found.record, state=CallbackState.DUE, due=now, next=now, tries=0))
        done: asyncio.Future[MeshError | None] = asyncio.get_running_loop().create_future()
        change = self._change(after.item, after.record)
        shard.journal.write([change], partial(self._retried, after, done))  # which gives the claim back
        error = await done
        if error is not None:
            raise error
        return after

    def _retried(self, after: Kept, done: asyncio.Future[MeshError | None], errors: list[MeshError | None]) -> None:
        self.shard.claimed.discard(after.item.number)
        if errors[0] is None and after.item.callback is not None:
            item, receiver = after.item, after.item.callback.receiver
            self._add(Due(self, item.number, item.tenant, receiver, after.record.next))
        if not done.done():
            done.set_result(errors[0])

    # ------------------------------------------------------------------------------------------------ parts

    def _add(self, due: Due) -> None:
        self.entries[due.number] = due
        self.by_tenant[due.tenant] += 1
        self.on_due(due)

    def _hasten(self, due: Due) -> None:
        if due.at < NEVER:
            due.at = self.shard.clock.now()
            self.on_due(due)

    async def _write(self, item: Item, after: Record) -> MeshError | None:
        written: asyncio.Future[list[MeshError | None]] = asyncio.get_running_loop().create_future()

        def told(errors: list[MeshError | None]) -> None:
            if not written.done():
                written.set_result(errors)

        self.shard.claimed.add(item.number)
        try:
            self.shard.journal.write([self._change(item, after)], told)
            return (await written)[0]
        finally:
            self.shard.claimed.discard(item.number)

    def _change(self, item: Item, after: Record) -> Change:
        """The item is kept until its callback ends, then for its time: whoever was called back may fetch it."""
        settings = self.shard.settings
        expires = NEVER
        if after.state is not CallbackState.DUE:
            ttl_s = settings.ttl_s(item)
            is_dead = after.state is CallbackState.DEAD
            expires = self.shard.clock.now() + (max(ttl_s, settings.dead_ttl_s) if is_dead else ttl_s)
        return Change.called_back(replace(item, expires=expires), after.values(item.number))
