"""A replica's puller, whose brokers a test leads: credits, outcomes, connections that break, journals that move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry

from serving._proto import broker_pb2 as bpb
from serving._proto import records_pb2 as pb
from serving.broker.puller import ahead
from serving.broker.puller.puller import Puller
from serving.broker.puller.run import Job, PullEntry, Returned
from serving.errors import Code
from tests.integration.broker.scripted_broker import ScriptedBroker
from tests.support.waiting import eventually_async

CONFIG = pb.ReplicaConfig(id="it-r3-0", deployment="it", generation=2, revision=3)


class Runs:
    """A `Runner` that does what the request says, and notes it."""

    def __init__(self) -> None:
        self.running = 0
        self.cancelled = 0
        self.jobs: list[Job] = []
        self.gate = asyncio.Event()
        self.full = 0  # times that it has no room

    async def run(self, job: Job) -> bpb.Result | Returned:
        self.jobs.append(job)
        if self.full:
            self.full -= 1
            return Returned(bpb.Failure(code=Code.RESOURCE_EXHAUSTED, message="no room"))
        do = job.request.infer.decode()
        if do == "raise":
            raise ValueError("inside")
        if do == "fail":
            return bpb.Result(failure=bpb.Failure(code=3, message="wrong"))
        if do == "parts" and job.emit is not None:
            for number in range(3):
                job.emit(f"{number}".encode())
        if do in ("wait", "parts"):
            self.running += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.running -= 1
        return bpb.Result(infer=b"done")


@pytest.fixture
async def runs() -> Runs:
    return Runs()


@pytest.fixture
async def puller(runs: Runs) -> AsyncIterator[Puller]:
    made = Puller(CONFIG, PullEntry(runs, CollectorRegistry()))
    made.set_open(True)
    yield made
    runs.gate.set()
    await made.close()


Make = Callable[..., ScriptedBroker]


async def until(look: Callable[[], object], what: str) -> None:
    await eventually_async(look, timeout_s=120, what=what)


async def connected(broker: ScriptedBroker, puller: Puller, *others: ScriptedBroker) -> ScriptedBroker:
    await broker.start()
    puller.apply([broker.endpoint, *(one.endpoint for one in others)])
    await until(lambda: broker.hellos and broker.credits > 0, "credits")
    return broker


async def test_it_says_who_it_is_and_gives_credits_for_what_it_runs(puller: Puller, runs: Runs, broker: Make) -> None:
    one = await connected(broker("b", "j"), puller)
    (hello,) = one.hellos
    assert (hello.replica, hello.deployment, hello.generation, hello.revision) == ("it-r3-0", "it", 2, 3)
    assert hello.process
    room = one.credits
    one.work("j.1", do="fail", left_s=100)
    await until(lambda: len(one.done()) == 1, "an outcome")
    assert one.done()[0].item == "j.1"
    assert one.done()[0].result.failure.message == "wrong"
    assert 90 < (runs.jobs[0].left_s or 0) <= 100
    one.work("j.2", do="wait")
    await until(lambda: runs.running == 1, "it runs")
    runs.gate.set()
    await until(lambda: len(one.done()) == 2, "both outcomes")
    assert one.done()[1] == bpb.Done(item="j.2", attempt=1, result=bpb.Result(infer=b"done"))
    await until(lambda: one.credits >= room, "at least the same room as before")
    for done in one.done():
        one.send(stored=bpb.Stored(item=done.item, attempt=done.attempt, wanted=True))
    await asyncio.wait_for(puller.wait_idle(), 30)


async def test_what_fails_inside_goes_back(puller: Puller, broker: Make) -> None:
    one = await connected(broker("b", "j"), puller)
    one.work("j.1", do="raise")
    await until(one.done, "the outcome")
    assert one.done()[0].again.code == Code.INTERNAL
    assert not one.done()[0].untouched


async def test_parts_are_sent_while_it_runs(puller: Puller, runs: Runs, broker: Make) -> None:
    one = await connected(broker("b", "j"), puller)
    one.work("j.1", do="parts", wants_parts=True)
    one.work("j.2", do="parts")
    await until(lambda: sum(len(said.parts) for said in one.progress()) == 3, "parts")
    parts = [part for said in one.progress() for part in said.parts]
    assert [(part.number, part.attempt, part.body) for part in parts] == [(0, 1, b"0"), (1, 1, b"1"), (2, 1, b"2")]
    assert {said.item for said in one.progress()} == {"j.1"}
    runs.gate.set()
    await until(lambda: len(one.done()) == 2, "outcomes")


async def test_it_says_three_times_in_a_lease_that_it_lives(puller: Puller, runs: Runs, broker: Make) -> None:
    one = await connected(broker("b", "j", lease_s=0.3), puller)
    one.work("j.1", do="wait")
    await until(lambda: len(one.progress()) > 3, "progress")
    runs.gate.set()
    await until(lambda: len(one.done()) > 2, "an outcome that is not confirmed is said again")
    one.send(stored=bpb.Stored(item="j.1", attempt=1))
    await asyncio.wait_for(puller.wait_idle(), 30)


async def test_one_that_has_nothing_to_say_says_that_it_lives(puller: Puller, broker: Make) -> None:
    """Else a broker that has lost sight of it would never give it work again."""
    one = await connected(broker("b", "j", lease_s=0.3), puller)
    credit, said = one.credits, len(one.said)
    await until(lambda: len(one.said) > said + 2, "signs of life")
    assert one.credits == credit
    assert {message.WhichOneof("message") for message in one.said} == {"credits"}


async def test_a_stop_ends_the_run_and_nothing_is_said_of_it(puller: Puller, runs: Runs, broker: Make) -> None:
    one = await connected(broker("b", "j"), puller)
    one.work("j.1", do="wait")
    await until(lambda: runs.running, "it runs")
    one.send(stop=bpb.Stop(item="j.1", attempt=7, reason="another attempt"))
    one.send(stop=bpb.Stop(item="j.1", attempt=1, reason="cancelled"))
    await until(lambda: runs.cancelled == 1, "it ends")
    await asyncio.wait_for(puller.wait_idle(), 30)
    assert one.done() == []


async def test_outcomes_outlive_the_connection(puller: Puller, runs: Runs, broker: Make) -> None:
    scripted = broker("b", "j")
    scripted.per_replica = 3
    one = await connected(scripted, puller)
    one.work("j.1", do="wait")
    one.work("j.2", do="wait")
    one.work("j.3", attempt=4, do="wait")
    await until(lambda: runs.running == 3, "they run")
    one.welcome.lost.add(item="j.3", attempt=4)
    one.hang_up()
    await until(lambda: len(one.hellos) == 2, "it comes back")
    assert sorted((held.item, held.attempt) for held in one.hellos[1].held) == [("j.1", 1), ("j.2", 1), ("j.3", 4)]
    assert one.hellos[1].process == one.hellos[0].process
    await until(lambda: runs.cancelled == 1, "what is lost is stopped")
    runs.gate.set()
    await until(lambda: len(one.done()) == 2, "outcomes")
    one.hang_up()
    await until(lambda: len(one.done()) == 4, "they are said again")
    assert {done.item for done in one.done()} == {"j.1", "j.2"}


async def test_a_journal_that_moves_takes_its_outcomes_along(puller: Puller, runs: Runs, broker: Make) -> None:
    old, new = broker("old", "j"), broker("new", "k")
    await new.start()
    await connected(old, puller, new)
    await until(lambda: new.hellos, "both are connected")
    old.work("j.1", do="wait")
    await until(lambda: runs.running, "it runs")
    await old.stop()
    runs.gate.set()
    await until(lambda: runs.running == 0, "it has ended, and has no home")
    new.journals = ("k", "j")
    puller.apply([new.endpoint])
    await until(new.done, "the outcome at its new home")
    assert new.done()[0].item == "j.1"
    assert len(new.hellos) == 1


async def test_brokers_share_the_room_and_none_is_left_out(puller: Puller, runs: Runs, broker: Make) -> None:
    both = [broker("a", "j"), broker("b", "k")]
    for one in both:
        await one.start()
    puller.apply([one.endpoint for one in both])
    await until(lambda: all(one.credits > 0 for one in both), "credits at both")
    puller.set_open(False)
    await until(lambda: all(one.credits == 0 for one in both), "an unhealthy replica takes them back")
    puller.set_open(True)
    await until(lambda: all(one.credits > 0 for one in both), "and gives them again")
    foreign = pb.Endpoint(id="c", address="127.0.0.1:1", protocol="broker-grpc", state="ready", before=["other"])
    puller.apply([both[0].endpoint, foreign])
    before = both[0].credits
    await until(lambda: both[1].credits == 0, "one that has left gets nothing more")
    await until(lambda: both[0].credits >= before, "the other one has it all")
    assert runs.jobs == []


async def test_a_broker_that_comes_back_to_discovery_is_pulled_from_again(puller: Puller, broker: Make) -> None:
    """The store was away, and has forgotten it for a moment; its connection has lived on, or not."""
    one = await connected(broker("b", "j"), puller)
    puller.apply([])
    await until(lambda: one.credits == 0, "it gets nothing more")
    puller.apply([one.endpoint])
    await until(lambda: one.credits > 0, "credits again")
    assert len(one.hellos) == 1
    puller.apply([])
    await until(lambda: one.credits == 0, "it gets nothing more")
    one.hang_up()
    puller.apply([one.endpoint])
    await until(lambda: len(one.hellos) == 2 and one.credits > 0, "a new connection")


async def test_a_later_attempt_ends_the_earlier_one(puller: Puller, runs: Runs, broker: Make) -> None:
    one = await connected(broker("b", "j"), puller)
    one.work("j.1", do="wait")
    await until(lambda: runs.running == 1, "it runs")
    one.work("j.1", attempt=2)
    await until(one.done, "an outcome")
    await until(lambda: runs.cancelled == 1, "the first one is stopped")
    assert [done.attempt for done in one.done()] == [2]


async def test_a_full_replica_keeps_the_item_until_there_is_room(puller: Puller, runs: Runs, broker: Make) -> None:
    one = await connected(broker("b", "j"), puller)
    runs.full = 3
    one.work("j.1")
    await until(one.done, "the outcome")
    assert one.done()[0].HasField("result")
    assert len(runs.jobs) == 4
    await until(lambda: one.credits > 0, "credits again")


async def test_a_replica_that_drains_finishes_and_takes_nothing(puller: Puller, runs: Runs, broker: Make) -> None:
    one = await connected(broker("b", "j"), puller)
    one.work("j.1", do="wait")
    await until(lambda: runs.running, "it runs")
    puller.drain()
    await until(lambda: one.credits == 0, "credits are taken back")
    one.work("j.2")  # it was on its way
    await until(one.done, "it goes back")
    assert (one.done()[0].item, one.done()[0].again.code, one.done()[0].untouched) == ("j.2", Code.UNAVAILABLE, True)
    runs.gate.set()
    await until(lambda: len(one.done()) == 2, "what ran is finished")
    assert one.done()[1].HasField("result")
    await until(lambda: one.credits == 0, "and nothing more is asked for")


async def test_when_the_time_is_over_what_runs_goes_back(puller: Puller, runs: Runs, broker: Make) -> None:
    one = await connected(broker("b", "j"), puller)
    one.work("j.1", do="wait")
    await until(lambda: runs.running, "it runs")
    await puller.stop_running()
    assert runs.cancelled == 1
    await until(one.done, "it goes back")
    assert one.done()[0].again.code == Code.UNAVAILABLE
    assert not one.done()[0].untouched


async def one_behind(runs: Runs, one: ScriptedBroker) -> None:
    """A serial replica runs `j.1`, and has `j.2`."""
    one.work("j.1", do="wait")
    await until(lambda: runs.running == 1, "it runs")
    one.work("j.2", do="wait")


async def test_what_is_ahead_begins_when_the_one_before_has_ended(
    puller: Puller, runs: Runs, broker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_LEAST_PATIENCE_S", 60.0)
    one = await connected(broker("b", "j", lease_s=0.3), puller)
    await one_behind(runs, one)
    await until(lambda: {said.item for said in one.progress()} == {"j.1", "j.2"}, "both are said to be held")
    assert len(runs.jobs) == 1
    runs.gate.set()
    await until(lambda: {done.item for done in one.done() if done.HasField("result")} == {"j.1", "j.2"}, "results")
    assert len(runs.jobs) == 2


async def test_what_waits_too_long_goes_back_untouched(puller: Puller, runs: Runs, broker: Make) -> None:
    one = await connected(broker("b", "j"), puller)
    await one_behind(runs, one)
    await until(one.done, "it goes back")
    (back,) = one.done()
    assert (back.item, back.again.code, back.untouched) == ("j.2", Code.UNAVAILABLE, True)
    assert runs.running == 1
    runs.gate.set()
    await until(lambda: len(one.done()) == 2, "the other one's result")
    assert len(runs.jobs) == 1


async def test_what_has_just_come_stays_when_an_earlier_one_goes_back(
    puller: Puller, runs: Runs, broker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_LEAST_PATIENCE_S", 2.0)
    one = await connected(broker("b", "j", lease_s=0.3), puller)
    await one_behind(runs, one)
    await until(lambda: {said.item for said in one.progress()} == {"j.1", "j.2"}, "both are held")
    monkeypatch.setattr(ahead, "_LEAST_PATIENCE_S", 60.0)
    one.work("j.3")
    await until(one.done, "the earlier one goes back")
    before = len(one.progress())
    await until(lambda: "j.3" in {said.item for said in one.progress()[before:]}, "the later one is held")
    assert {done.item for done in one.done()} == {"j.2"}
    runs.gate.set()
    await until(lambda: {done.item for done in one.done() if done.HasField("result")} == {"j.1", "j.3"}, "results")


async def test_what_waits_is_stopped_and_given_back(
    puller: Puller, runs: Runs, broker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_LEAST_PATIENCE_S", 60.0)
    one = await connected(broker("b", "j", lease_s=0.3), puller)
    await one_behind(runs, one)
    one.work("j.3")
    await until(lambda: len({said.item for said in one.progress()}) == 3, "all are held")
    one.send(stop=bpb.Stop(item="j.2", attempt=1, reason="cancelled"))
    before = len(one.progress())
    await until(lambda: "j.2" not in {said.item for said in one.progress()[before + 3 :]} and
                len(one.progress()) > before + 6, "nothing is said of the one that was stopped")  # fmt: skip
    puller.drain()
    await until(one.done, "the other one goes back")
    assert (one.done()[0].item, one.done()[0].untouched) == ("j.3", True)
    assert runs.running == 1


async def test_the_broker_is_told_how_many_would_wait(puller: Puller, broker: Make) -> None:
    """Items as short as the way: one runs, one more covers the way."""
    one = await connected(broker("b", "j"), puller)
    for number in range(8):
        one.work(f"j.{number}")
        await until(lambda many=number: len(one.done()) > many, "an outcome")
        one.send(stored=bpb.Stored(item=f"j.{number}", attempt=1, wanted=True))
        await until(lambda: one.credits > 0, "credits again")
    await until(lambda: one.ahead > 0 and one.credits > one.ahead, "places ahead")
