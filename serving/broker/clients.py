"""What clients ask of one journal: submit, get, follow, cancel, retry, list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from serving._proto import broker_pb2 as pb
from serving.broker import queries, tickets
from serving.broker.items import Item
from serving.broker.journal import Found
from serving.broker.keeping import Keeping
from serving.broker.partial_results import Part, PartialResult
from serving.broker.shard import Shard
from serving.errors import Conflict, FailedPrecondition, MeshError, NotFound, Unavailable
from serving.timeouts import wait_for


@dataclass(frozen=True, slots=True)
class Submitted:
    number: int
    repeated: bool = False  # an earlier submit had the same idempotency key


Answer: TypeAlias = Submitted | MeshError
GONE: Final = "whoever waited for it has gone"  # why an attended item was cancelled
_Name: TypeAlias = tuple[str, str]  # tenant and idempotency key


def ticket_of(shard: Shard, number: int) -> str:
    return f"{shard.id_of(number)}.{tickets.secret(shard.journal.key, number)}"


def reply_of(shard: Shard, answer: Answer) -> pb.SubmitReply | MeshError:
    if not isinstance(answer, Submitted):
        return answer
    return pb.SubmitReply(ticket=ticket_of(shard, answer.number), repeated=answer.repeated)


class Clients:
    """Of a shard that has recovered. Belongs to its loop."""

    def __init__(self, shard: Shard, keeping: Keeping) -> None:
        self._shard = shard
        self._keeping = keeping
        self.on_their_way: dict[_Name, asyncio.Future[Answer]] = {}

    # ------------------------------------------------------------------------------------------------ submit

    async def submit(self, wanted: Sequence[tuple[Item, bytes]]) -> list[Answer]:
        """Keeps them, with one write; what came of each. They are kept also when the caller is cancelled."""
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Answer]] = []
        mine: list[tuple[Item, bytes, asyncio.Future[Answer]]] = []
        for item, body in wanted:
            earlier = self.on_their_way.get((item.tenant, item.key)) if item.key else None
            if earlier is not None:
                answers.append(_repeated(earlier))
                continue
            answer: asyncio.Future[Answer] = loop.create_future()
            answers.append(answer)
            mine.append((item, body, answer))
            if item.key:
                self.on_their_way[item.tenant, item.key] = answer
                answer.add_done_callback(partial(self._arrived, (item.tenant, item.key)))
        if any(item.looked_for for item, _, _ in mine):
            task = self._shard.spawn(self._write_unknown(mine))
            task.add_done_callback(partial(_refuse_cancelled, mine))
        else:
            self._write(mine)
        return [await asyncio.shield(answer) for answer in answers]

    async def settled(self, names: Sequence[_Name]) -> None:
        """Returns when none of these is on its way to the journal."""
        under_way = [self.on_their_way[name] for name in names if name in self.on_their_way]
        if under_way:
            await asyncio.wait(under_way)

    async def known(self, names: Sequence[_Name]) -> dict[_Name, int]:
        """The numbers of items with these tenants and idempotency keys."""
        return await self._shard.journal.read(partial(queries.numbers_of_keys, keys=names))

    async def _write_unknown(self, wanted: Sequence[tuple[Item, bytes, asyncio.Future[Answer]]]) -> None:
        """Those whose keys the journal does not know yet."""
        try:
            known = await self.known([(item.tenant, item.key) for item, _, _ in wanted if item.looked_for])
            unknown = []
            for each in wanted:
                number = known.get((each[0].tenant, each[0].key))
                if number is None:
                    unknown.append(each)
                else:
                    each[2].set_result(Submitted(number, repeated=True))
            self._write(unknown)
        except MeshError as error:
            _refuse(wanted, error)

    def _write(self, wanted: Sequence[tuple[Item, bytes, asyncio.Future[Answer]]]) -> None:
        taken: list[tuple[Item, bytes, asyncio.Future[Answer]]] = []
        for item, body, answer in wanted:
            try:
                self._keeping.add(item)
                taken.append((item, body, answer))
            except MeshError as error:
                answer.set_result(error)
        if taken:
            changes = self._keeping.changes([(item, body) for item, body, _ in taken])
            self._shard.journal.write(changes, partial(self._written, taken))

    def _written(
        self, taken: Sequence[tuple[Item, bytes, asyncio.Future[Answer]]], errors: list[MeshError | None]
    ) -> None:
        for (item, body, answer), error in zip(taken, errors, strict=True):
            self._keeping.added(item, body, error)
            if error is not None and item.new_key:  # the journal refuses a key that it has
                task = self._shard.spawn(self._answer_refused(item, answer, error))
                task.add_done_callback(partial(_refuse_cancelled, [(item, body, answer)]))
            else:
                answer.set_result(error or Submitted(item.number))

    async def _answer_refused(self, item: Item, answer: asyncio.Future[Answer], error: MeshError) -> None:
        """One that was said to be new, and may not be."""
        try:
            known = await self.known([(item.tenant, item.key)])
        except MeshError:
            known = {}
        number = known.get((item.tenant, item.key))
        answer.set_result(error if number is None else Submitted(number, repeated=True))

    def _arrived(self, name: _Name, _: object) -> None:
        del self.on_their_way[name]

    # ------------------------------------------------------------------------------------------------ look

    def check(self, number: int, secret: str) -> None:
        """Raises `NotFound` for a ticket that this journal has not given out."""
        if not tickets.is_secret(self._shard.journal.key, number, secret):
            raise NotFound(f"no item has the ticket {self._shard.id_of(number)}.{secret[:4]}...")

    async def get(self, number: int, wait_s: float = 0.0) -> Found:
        """The item, after its end or `wait_s`. Raises `NotFound`, or `Unavailable` when the journal moves away."""
        shard = self._shard
        end = shard.watchers.end_of(number) if wait_s > 0 else None
        try:
            found = shard.ended.get(number)
            if found is not None:
                return found
            surely_live = number in shard.running or number in shard.fresh
            if end is None or not surely_live:
                found = await self._read(number)
                if end is None or not found[0].state.live:
                    return found
            try:
                if not await wait_for(end, wait_s):
                    raise self._moves()
            except asyncio.TimeoutError:
                pass
            return shard.ended.get(number) or await self._read(number)
        finally:
            if end is not None:
                end.cancel()

    async def _read(self, number: int) -> Found:
        found = await self._shard.journal.item_with_result(number)
        if found is None:
            raise NotFound(f"item {self._shard.id_of(number)} is not kept any more: its time was over")
        return found

    def progress_of(self, number: int) -> float:
        running = self._shard.running.get(number)
        return running.progress if running is not None else 0.0

    async def follow(self, number: int, from_part: int) -> AsyncIterator[Part | Found]:
        """Parts from `from_part` on as they come, then the item at its end; of another attempt all parts.

        Who is slower than parts are forgotten misses some: the result has them. Raises `NotFound`, `Unavailable`.
        """
        shard = self._shard
        seen: PartialResult | None = None
        wanted = from_part
        while True:
            end, change = shard.watchers.end_of(number), shard.watchers.change_of(number)
            try:
                running = shard.running.get(number)
                found = None if running is not None else shard.ended.get(number) or await self._read(number)
                if running is not None and running.partial is not seen:
                    wanted = from_part if seen is None else 0
                    seen = running.partial
                while seen is not None and (parts := seen.since(wanted)):
                    for part in parts:
                        wanted = part.number + 1
                        yield part
                if found is not None and not found[0].state.live:
                    yield found
                    return
                await asyncio.wait((end, change), return_when=asyncio.FIRST_COMPLETED)
                if (end.done() and not end.result()) or (change.done() and not change.result()):
                    raise self._moves()
            finally:
                end.cancel()
                change.cancel()

    async def list(self, wanted: queries.Filter, after: int, limit: int) -> tuple[list[Item], int | None]:
        """A page of items, and where the next one begins."""
        return await self._shard.journal.read(partial(queries.page, wanted=wanted, after=after, limit=limit))

    # ------------------------------------------------------------------------------------------------ change

    async def leave(self, number: int) -> None:
        """Its only caller has gone: ends it unless it has ended, without a look at it."""
        done: asyncio.Future[MeshError | None] = asyncio.get_running_loop().create_future()
        self._shard.cancel(number, partial(_settle, done, None), GONE)
        await done

    async def cancel(self, number: int) -> Found:
        """Ends it unless it has ended. Raises `NotFound`."""
        done: asyncio.Future[MeshError | None] = asyncio.get_running_loop().create_future()
        self._shard.cancel(number, partial(_settle, done, None))
        await done
        found = self._shard.ended.get(number) or await self._read(number)
        if found[0].state.live:
            raise Unavailable(f"item {self._shard.id_of(number)} could not be cancelled: its journal cannot be written")
        return found

    async def retry(self, number: int) -> Found:
        """Puts it back that has ended without an answer; one that waits or runs is left alone."""
        shard = self._shard
        if number in shard.claimed:
            raise Conflict(f"item {shard.id_of(number)} is being changed: look at it again")
        shard.claimed.add(number)  # so that it is not forgotten meanwhile
        try:
            item, _ = await self._read(number)
            if item.state.live:
                shard.claimed.discard(number)
                return item, None
            if item.state.answered:
                raise FailedPrecondition(
                    f"item {shard.id_of(number)} has {item.state.name}: only what is DEAD, EXPIRED or CANCELLED is "
                    "tried again; submit it anew"
                )
            done: asyncio.Future[MeshError | None] = asyncio.get_running_loop().create_future()
            self._keeping.retry(item, partial(_settle, done))  # which gives the claim back when it is written
        except BaseException:
            shard.claimed.discard(number)
            raise
        error = await done
        if error is not None:
            raise error
        return await self._read(number)

    def _moves(self) -> MeshError:
        return Unavailable(
            f"the journal {self._shard.name} moves to another broker: ask the one whose endpoint names it"
        )


def _repeated(earlier: asyncio.Future[Answer]) -> asyncio.Future[Answer]:
    """What the earlier submit with the same key is answered, as a repetition."""
    mine: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def tell(done: asyncio.Future[Answer]) -> None:
        answer = done.result()
        mine.set_result(replace(answer, repeated=True) if isinstance(answer, Submitted) else answer)

    earlier.add_done_callback(tell)
    return mine


def _refuse_cancelled(wanted: Sequence[tuple[Item, bytes, asyncio.Future[Answer]]], task: asyncio.Task[None]) -> None:
    """Also of one that was cancelled before it began."""
    if task.cancelled():
        _refuse(wanted, Unavailable("the broker ends: submit it again"))


def _settle(future: asyncio.Future[MeshError | None], error: MeshError | None) -> None:
    if not future.done():
        future.set_result(error)


def _refuse(wanted: Sequence[tuple[Item, bytes, asyncio.Future[Answer]]], error: MeshError) -> None:
    for _, _, answer in wanted:
        if not answer.done():
            answer.set_result(error)
