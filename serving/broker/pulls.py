"""Replicas that pull: their connections, their credits, and who gets the next item. Belongs to one event loop.

A replica's credits are the broker's, whichever journals it serves. An item goes to the replica with the largest part of
its room free.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from serving._proto import broker_pb2 as pb
from serving.broker.items import Item
from serving.broker.messages import together, work_bytes
from serving.broker.running import Running
from serving.broker.shard import Shard

_LOG: Final = logging.getLogger(__name__)
MOST_CREDITS: Final = 10_000
_MOST_UNSENT: Final = 64 << 20  # bytes that wait for a replica to read them
_MESSAGE_BYTES: Final = 100  # of memory, for a message besides its text
_BATCH: Final = 256  # items that are started together


@dataclass(slots=True, eq=False)
class Puller:
    """One connection of a replica. `credits` may be below 0: work was on its way when they were taken back.

    Items in the last `ahead` of its places wait in the replica until another one has ended. They would wait long where
    all that it has are long ones.
    """

    replica: str
    process: str
    deployment: str
    generation: int
    credits: int = 0
    ahead: int = 0
    starting: int = 0  # items that are on their way to it
    held: set[tuple[str, int]] = field(default_factory=set)  # item and attempt, of what it was sent and has
    long: set[tuple[str, int]] = field(default_factory=set)  # those of them that were predicted to take long
    starting_long: int = 0
    left: bool = False  # its endpoint is gone from discovery
    silent: bool = False  # it hangs: gets nothing before it says something again
    closed: bool = False
    outbox: deque[bytes] = field(default_factory=deque)
    unsent: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def full(self) -> bool:
        """It does not read as fast as it is written to."""
        return self.unsent >= _MOST_UNSENT

    def send(self, data: bytes) -> None:
        if self.closed:
            return
        self.outbox.append(data)
        self.unsent += len(data) + _MESSAGE_BYTES
        self.wake.set()
        if self.unsent >= 2 * _MOST_UNSENT and len(self.outbox) > 1:
            self.close()  # it reads nothing at all: it connects again, and names what it holds

    def next_messages(self) -> list[bytes]:
        """Out of the outbox, as many as go together; to be given to `sent` then."""
        return together(self.outbox)

    def sent(self, replies: Sequence[bytes]) -> None:
        self.unsent -= sum(map(len, replies)) + _MESSAGE_BYTES * len(replies)

    def close(self) -> None:
        """Its stream is to end."""
        self.closed = True
        self.wake.set()

    def hold(self, key: tuple[str, int], *, long: bool) -> None:
        self.held.add(key)
        if long:
            self.long.add(key)

    def let_go(self, key: tuple[str, int]) -> None:
        """It has ended there; harmless to repeat."""
        self.held.discard(key)
        self.long.discard(key)

    @property
    def used(self) -> int:
        return len(self.held) + self.starting

    @property
    def room(self) -> int:
        return self.used + max(0, self.credits)

    @property
    def places(self) -> int:
        """Those of its room in which items run at once. The first one, too, where `ahead` is as much as all of it: of a
        replica that shares its room among several brokers, each is told of all places ahead."""
        return max(self.room - self.ahead, min(1, self.room))

    @property
    def next_waits(self) -> bool:
        """The next item would wait behind another one."""
        return self.credits <= self.ahead and self.used > 0

    @property
    def takes(self) -> bool:
        """There is a place for an item, and none that it would wait long for."""
        if self.credits <= 0 or self.full:
            return False
        return not self.next_waits or self.used > len(self.long) + self.starting_long

    @property
    def busy_share(self) -> float:
        return self.used / (self.used + self.credits)


@dataclass(slots=True)
class _Room:
    """Of a deployment: the replicas that take items, and what `WaitingQueue.take` asks of all that are allowed to."""

    able: list[Puller]
    places: int
    ahead: int

    def next(self) -> Puller:
        """Who is given the next item."""
        return min(self.able, key=_order) if len(self.able) > 1 else self.able[0]

    def give(self, puller: Puller, running: Running) -> None:
        puller.credits -= 1
        puller.starting += 1
        puller.starting_long += running.long
        if not puller.takes:
            self.able.remove(puller)


class Pulls:
    """The replicas of one broker. It is the `Listener` of the broker's shards."""

    def __init__(self, shards: Mapping[str, Shard]) -> None:
        """`shards` by journal; its owner adds and takes away."""
        self._shards = shards
        self._pullers: dict[str, Puller] = {}
        self._turn = 0
        self._planned = False
        self.refusing = False

    def of(self, deployment: str) -> list[Puller]:
        return [puller for puller in list(self._pullers.values()) if puller.deployment == deployment]

    @property
    def pullers(self) -> Iterable[Puller]:
        return self._pullers.values()

    def open(self, puller: Puller) -> None:
        """In place of an earlier connection of the same replica, which ends."""
        before = self._pullers.get(puller.replica)
        if before is not None:
            before.close()
        self._pullers[puller.replica] = puller
        self.waiting()

    def close(self, puller: Puller) -> None:
        """Its stream has ended. What it runs stays its own while its lease lasts, unless it has left discovery."""
        puller.close()
        if self._pullers.get(puller.replica) is puller:
            del self._pullers[puller.replica]
            if puller.left:
                self._end_leases(puller.replica)
            self.waiting()  # an older generation may be allowed now

    def close_all(self) -> None:
        for puller in list(self._pullers.values()):
            puller.close()

    def endpoint_left(self, replica: str) -> None:
        """Its endpoint is gone from discovery. One that is connected finishes what it has: it drains."""
        puller = self._pullers.get(replica)
        if puller is None:
            self._end_leases(replica)
        else:
            puller.left = True

    def endpoint_back(self, replica: str) -> None:
        """Its endpoint is in discovery again: the store had lost it."""
        puller = self._pullers.get(replica)
        if puller is not None:
            puller.left = False

    def _end_leases(self, replica: str) -> None:
        for shard in self._shards.values():
            shard.replica_left(replica, f"replica {replica} is gone")

    def add_credits(self, puller: Puller, more: int) -> None:
        puller.credits = max(-MOST_CREDITS, min(puller.credits + more, MOST_CREDITS))
        if more > 0:
            self.waiting()

    # ------------------------------------------------------------------------------------------------ Listener

    def waiting(self) -> None:
        if not self._planned and not self.refusing:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def begin(self, journal: str, items: Sequence[Item]) -> Mapping[int, Running]:
        shard = self._shards.get(journal)
        begun: dict[int, Running] = {}
        if shard is None or self.refusing:
            return begun
        groups: dict[str, list[Item]] = {}
        for item in items:
            groups.setdefault(item.deployment, []).append(item)
        for deployment, group in groups.items():
            room = self._room(deployment)
            waits = any(one.queues.waits(deployment) for one in self._shards.values())  # what came before them
            if room.able and not waits:
                begun.update(begin_new(shard, group, partial(self._take_new, shard, deployment, room)))
        return begun

    def _take_new(self, shard: Shard, deployment: str, room: _Room) -> Running | None:
        if not room.able:
            return None
        puller = room.next()
        running = shard.take(deployment, room.places, puller.replica, puller.process, room.ahead)
        if running is not None:
            room.give(puller, running)
            running.then = partial(self._started, shard, {running: puller})
        return running

    def stop(self, replica: str, item: str, attempt: int, reason: str) -> None:
        puller = self._pullers.get(replica)
        if puller is not None:
            puller.let_go((item, attempt))
            puller.send(stop_bytes(item, attempt, reason))

    def silent(self, replica: str, item: str, attempt: int) -> None:
        """Not a replica that never had the work: its broker died between the start and the sending."""
        puller = self._pullers.get(replica)
        if puller is not None and (item, attempt) in puller.held:
            puller.silent = True

    def heard(self, puller: Puller) -> None:
        """It has said something."""
        if puller.silent:
            puller.silent = False
            self.waiting()

    # ------------------------------------------------------------------------------------------------ handing out

    def _hand_out(self) -> None:
        self._planned = False
        if self.refusing:
            return
        for deployment in {puller.deployment for puller in self._pullers.values()}:
            self._hand_out_of(deployment)

    def _hand_out_of(self, deployment: str) -> None:
        room = self._room(deployment)
        batches: dict[str, list[Running]] = {}
        takers: dict[Running, Puller] = {}
        while room.able and len(takers) < _BATCH:
            puller = room.next()
            found = self._take(deployment, room, puller)
            if found is None:
                break
            shard, running = found
            room.give(puller, running)
            batches.setdefault(shard.name, []).append(running)
            takers[running] = puller
        for name, batch in batches.items():
            shard = self._shards[name]
            shard.start(batch, partial(self._started, shard, takers))
        if len(takers) == _BATCH:
            self.waiting()

    def _allowed(self, deployment: str) -> list[Puller]:
        """Those of the newest generation that pulls, but for the silent; older ones get no work."""
        pullers = [puller for puller in self.of(deployment) if not puller.closed]
        newest = max((puller.generation for puller in pullers), default=0)
        return [puller for puller in pullers if puller.generation == newest and not puller.silent]

    def _room(self, deployment: str) -> _Room:
        allowed = self._allowed(deployment)
        places = sum(puller.places for puller in allowed)
        able = [puller for puller in allowed if puller.takes]
        return _Room(able, places, sum(puller.room for puller in allowed) - places)

    def _take(self, deployment: str, room: _Room, puller: Puller) -> tuple[Shard, Running] | None:
        """From each journal in turn."""
        shards = list(self._shards.values())
        for offset in range(len(shards)):
            shard = shards[(self._turn + offset) % len(shards)]
            running = shard.take(deployment, room.places, puller.replica, puller.process, room.ahead)
            if running is not None:
                self._turn = (self._turn + offset + 1) % len(shards)
                return shard, running
        return None

    def _started(self, shard: Shard, takers: Mapping[Running, Puller], running: Running, request: bytes | None) -> None:
        puller = takers[running]
        puller.starting -= 1
        puller.starting_long -= running.long
        if request is None:
            self.add_credits(puller, 1)
        elif puller.closed:
            shard.not_sent(running)
        else:
            item, item_id = running.item, shard.id_of(running.item.number)
            puller.hold((item_id, item.attempt), long=running.long)
            puller.send(work_bytes(item, item_id, shard.clock.now(), request))


def begin_new(shard: Shard, items: Sequence[Item], take: Callable[[], Running | None]) -> dict[int, Running]:
    """Claims of items that have not waited, where nothing waits, those whose turn it is until `take` has no place for
    another. By number; the others are to wait."""
    new = {item.number: item for item in items}
    begun: dict[int, Running] = {}
    try:
        for item in items:
            shard.queues.add(item, trial=True)
        while len(begun) < len(new) and (running := take()) is not None:
            number = running.item.number
            running.item, begun[number] = new[number], running
    finally:  # nothing may hand out what is not in the journal
        for number in new.keys() - begun.keys():
            shard.queues.remove(number)
    return begun


def _order(puller: Puller) -> tuple[bool, float]:
    """Who is given the next item: the lowest."""
    return puller.next_waits, puller.busy_share


def stop_bytes(item: str, attempt: int, reason: str) -> bytes:
    return pb.PullReply(stop=pb.Stop(item=item, attempt=attempt, reason=reason)).SerializeToString()
