"""Who gets the next item: replicas with credits over a shard with a real journal."""

from __future__ import annotations

import asyncio
import random

import pytest

from serving._proto import broker_pb2 as bpb
from serving.broker import pulls as pulls_module
from serving.broker.messages import joined
from serving.broker.pulls import Puller
from tests.support.handed import BODY, Handed, sent


async def test_an_item_goes_where_most_room_is_free(handed: Handed) -> None:
    small, large = handed.replica("small", 2), handed.replica("large", 6)
    await handed.hand_out(4)
    assert (len(small.held), len(large.held)) == (1, 3)
    await handed.hand_out(10)
    assert (len(small.held), len(large.held)) == (2, 6)
    assert (small.credits, large.credits) == (0, 0)
    assert handed.held.shard.queues.by_deployment["it"].running == 8


async def test_credits_that_were_taken_back_are_owed(handed: Handed) -> None:
    puller = handed.replica("r", 1)
    await handed.hand_out(3)
    handed.pulls.add_credits(puller, -2)
    handed.pulls.add_credits(puller, 2)
    await handed.hand_out(0)
    assert len(puller.held) == 1
    handed.pulls.add_credits(puller, 1)
    await handed.hand_out(0)
    assert len(puller.held) == 2


async def test_older_generations_wait_while_a_newer_one_pulls(handed: Handed) -> None:
    old = handed.replica("old", 5, generation=1)
    new = handed.replica("new", 1, generation=2)
    await handed.hand_out(3)
    assert (len(old.held), len(new.held)) == (0, 1)
    handed.pulls.close(new)
    await handed.hand_out(0)
    assert len(old.held) == 2


async def test_what_was_not_sent_goes_to_another_and_does_not_count(handed: Handed) -> None:
    number = await handed.held.submit(BODY)
    gone = handed.replica("gone", 1)
    await asyncio.sleep(0)  # it is being started
    assert gone.starting == 1
    handed.pulls.close(gone)
    await handed.held.settle()
    assert sent(gone) == []
    other = handed.replica("other", 1)
    await handed.hand_out(0)
    assert sent(other) == [f"j1.{number}"]
    item, _ = await handed.held.clients.get(number)
    assert (item.attempt, item.attempts) == (2, 1)


async def test_a_replica_that_reads_nothing_gets_nothing_more(handed: Handed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulls_module, "_MOST_UNSENT", 1000)
    puller = handed.replica("r", 100)
    while not puller.full:
        await handed.hand_out(1)
    before = sent(puller)
    await handed.hand_out(5)
    assert sent(puller) == before
    assert not puller.closed
    for number in range(20):
        handed.pulls.stop("r", f"j1.{number}", 1, "cancelled by its client")
    assert puller.closed, "it connects again when it reads, and names what it holds"


async def test_held_are_those_that_were_sent_and_have_not_ended(handed: Handed) -> None:
    puller = handed.replica("r", 3)
    await handed.hand_out(3)
    assert puller.held == {("j1.1", 1), ("j1.2", 1), ("j1.3", 1)}
    await handed.held.clients.cancel(1)
    assert puller.held == {("j1.2", 1), ("j1.3", 1)}
    handed.pulls.stop("r", "j1.1", 1, "said twice")
    assert puller.busy_share == 1.0
    assert len(puller.held) == 2


def test_what_goes_together_is_bounded_and_keeps_its_order() -> None:
    """A large message goes alone; small ones go with each other."""
    puller = Puller("r", "p", "it", 1)
    sizes = [10, 20, 200 << 10, 100 << 10, 30, 1 << 20, 40]
    for number, size in enumerate(sizes):
        stop = bpb.Stop(item=str(number), reason="x" * size)
        puller.send(bpb.PullReply(stop=stop).SerializeToString())
    came: list[list[str]] = []
    while puller.outbox:
        together = puller.next_messages()
        first = bpb.PullReply.FromString(joined(together))
        came.append([one.stop.item for one in (first, *first.more)])
        puller.sent(together)
    assert came == [["0", "1", "2"], ["3", "4"], ["5"], ["6"]]
    assert puller.unsent == 0


async def test_only_who_had_the_work_is_silent_for_it(handed: Handed) -> None:
    """A broker may have died between an item's start and its sending: its replica has nothing to say of that."""
    replica = handed.replica("r", 4)
    await handed.hand_out(1)
    item, attempt = next(iter(replica.held))
    handed.pulls.silent("r", "j1.99", 1)
    handed.pulls.silent("r", item, attempt + 1)
    handed.pulls.silent("another", item, attempt)
    await handed.hand_out(1)
    assert len(replica.held) == 2
    handed.pulls.silent("r", item, attempt)
    await handed.hand_out(1)
    assert len(replica.held) == 2
    handed.pulls.heard(replica)
    await handed.hand_out(0)
    assert len(replica.held) == 3


class Known:
    """A broker that has seen items of which those with `task: long` take long."""

    def __init__(self, handed: Handed) -> None:
        self.handed = handed

    async def learn(self) -> None:
        replica = self.handed.replica("teacher", 1)
        for task, took_s in [("short", 1.0)] * 8 + [("long", 100.0)] * 5:
            await self.handed.held.submit(BODY, labels={"task": task})
            await self.handed.hand_out(0)
            ((item, attempt),) = replica.held
            self.handed.held.clock.advance(took_s)
            await self.handed.end(replica, item, attempt)
            self.handed.pulls.add_credits(replica, 1)
            replica.outbox.clear()
        self.handed.pulls.close(replica)

    async def submit(self, task: str) -> str:
        number = await self.handed.held.submit(BODY, labels={"task": task})
        await self.handed.hand_out(0)
        return f"j1.{number}"


@pytest.fixture
async def known(handed: Handed) -> Known:
    made = Known(handed)
    await made.learn()
    return made


def serial(handed: Handed, name: str) -> Puller:
    """One item runs, one more may wait for it."""
    puller = handed.replica(name, 0)
    puller.ahead = 1
    handed.pulls.add_credits(puller, 2)
    return puller


async def test_nothing_waits_in_a_replica_for_a_long_item(handed: Handed, known: Known) -> None:
    one = serial(handed, "one")
    long = await known.submit("long")
    waits = await known.submit("short")
    assert sent(one) == [long]
    assert one.credits == 1
    other = serial(handed, "other")
    await handed.hand_out(0)
    assert sent(other) == [waits]
    behind = await known.submit("short")
    assert sent(other) == [waits, behind]
    assert sent(one) == [long]


async def test_where_an_item_runs_at_once_comes_before_where_it_waits(handed: Handed, known: Known) -> None:
    one = serial(handed, "one")
    await known.submit("short")
    full = handed.replica("full", 8)
    for _ in range(7):
        await known.submit("short")
    assert (len(one.held), len(full.held)) == (1, 7)
    await known.submit("short")
    assert (len(one.held), len(full.held)) == (1, 8)
    await known.submit("short")
    assert (len(one.held), len(full.held)) == (2, 8)


async def test_the_end_of_a_long_item_opens_the_place_behind_it(handed: Handed, known: Known) -> None:
    one = serial(handed, "one")
    await known.submit("long")
    first, second = await known.submit("short"), await known.submit("short")
    ((item, attempt),) = one.held
    await handed.end(one, item, attempt)
    handed.pulls.add_credits(one, 1)
    await handed.hand_out(0)
    assert sent(one)[1:] == [first, second]


async def test_the_first_place_is_one_where_an_item_runs(handed: Handed, known: Known) -> None:
    """Each of two brokers gets one credit of a serial replica, and hears of its one place ahead. A short item came a
    moment ago: no place is kept for more of them where the replica has nothing to do."""
    one = handed.replica("one", 0)
    one.ahead = 1
    await known.submit("short")
    handed.pulls.add_credits(one, 1)
    await handed.hand_out(0)
    ((item, attempt),) = one.held
    await handed.end(one, item, attempt)
    long = await known.submit("long")
    handed.pulls.add_credits(one, 1)
    await handed.hand_out(0)
    assert sent(one)[1:] == [long]


@pytest.mark.parametrize(
    ("more", "ahead", "places"),
    [(2, 1, 1), (1, 1, 1), (1, 3, 1), (0, 1, 0), (-2, 1, 0), (6, 2, 4), (1, 0, 1)],
)
def test_places_are_those_in_which_items_run(more: int, ahead: int, places: int) -> None:
    assert Puller("r", "p", "it", 1, more, ahead).places == places


async def test_a_replica_that_says_nothing_of_it_takes_what_comes(handed: Handed, known: Known) -> None:
    """One without `ahead`: it may run several at once."""
    one = handed.replica("one", 2)
    await known.submit("long")
    await known.submit("short")
    assert len(one.held) == 2


async def test_what_came_back_goes_to_who_has_room_at_once(handed: Handed, known: Known) -> None:
    """It had waited behind an item that nobody knew to be long; its replica asks for nothing ahead until that ends."""
    one = serial(handed, "one")
    await known.submit("short")
    waits = await known.submit("short")
    other = serial(handed, "other")
    _, (item, attempt) = sorted(one.held)
    assert item == waits
    one.ahead = 0
    await handed.end(one, item, attempt, back=True)
    await handed.hand_out(0)
    assert sent(other) == [waits]
    assert (one.used, one.credits, handed.held.shard.queues.by_deployment["it"].running) == (1, 0, 2)


async def test_places_that_are_taken_back_are_filled_no_more(handed: Handed, known: Known) -> None:
    one = serial(handed, "one")
    await known.submit("short")
    one.ahead = 0
    handed.pulls.add_credits(one, -1)
    await known.submit("short")
    assert (one.used, one.credits) == (1, 0)


@pytest.mark.parametrize("seed", range(3))
async def test_no_place_stays_free_and_none_is_filled_twice(handed: Handed, known: Known, seed: int) -> None:
    """Whatever comes, ends, goes back or connects again: credits and items together are what replicas gave, and while
    anything waits no replica has a place for it."""
    chance = random.Random(seed)
    queue = handed.held.shard.queues.by_deployment["it"]
    gave: dict[str, int] = {}
    for number, (more, ahead) in enumerate([(2, 1), (2, 1), (1, 0), (6, 2)]):
        puller = handed.replica(f"r{number}", 0)
        puller.ahead = ahead
        handed.pulls.add_credits(puller, more)
        gave[puller.replica] = more
    for _ in range(120):
        puller = chance.choice(list(handed.pulls.pullers))
        step = chance.random()
        if step < 0.5:
            await known.submit("long" if chance.random() < 0.2 else "short")
        elif puller.held:
            item, attempt = chance.choice(sorted(puller.held))
            await handed.end(puller, item, attempt, back=step < 0.6)
            handed.pulls.add_credits(puller, 1)
            await handed.hand_out(0)
        for one in handed.pulls.pullers:
            assert (one.starting, one.starting_long) == (0, 0)
            assert one.credits >= 0
            assert len(one.held) + one.credits == gave[one.replica]
            assert one.long <= one.held
            assert not (one.takes and len(queue))
        assert queue.running == sum(len(one.held) for one in handed.pulls.pullers)
