"""Runners at a real etcd: which batches they take, keep, lose and give back. What a job does is said by the test."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import STATUS
from serving.batch.orders.claims import claim
from serving.batch.orders.view import word_of
from serving.batch.runner.job import Halt
from serving.local.etcd import EtcdCluster
from serving.store import keys
from serving.store.lease import Lease
from serving.store.records import encode
from tests.support.runner_taking import Script, Taking, begun
from tests.support.waiting import aeventually

pytestmark = pytest.mark.timeout(600)


async def test_a_batch_runs_to_its_end(taking: Taking) -> None:
    script = Script()
    batch = await taking.order()
    runner = await taking.runner("r1", script)
    now = await begun(taking, batch)
    assert now.status is not None
    assert now.claim is not None
    assert (now.claim.runner, now.claim.cluster) == ("r1", "east")
    assert (now.status.total, now.status.completed, now.status.prompt_tokens) == (10, 4, 40)
    assert runner.in_flight == 1
    script.go.set()
    ended = await taking.becomes(batch, "completed")
    assert ended.claim is None
    assert ended.status is not None
    assert ended.status.completed == 10
    await runner.wait_idle()


async def test_a_batch_of_mode_own_is_taken_by_its_own_runner_alone(taking: Taking) -> None:
    ours, theirs, shared = await taking.order(mode="own"), await taking.order(mode="own"), await taking.order()
    of_many, of_one = Script(), Script()
    await taking.runner("many", of_many, concurrency=3)
    runner = await taking.runner("one", of_one, concurrency=3, batch_id=ours.id)
    now = await begun(taking, ours)
    assert now.claim is not None
    assert now.claim.runner == "one"
    await begun(taking, shared)
    for script in (of_many, of_one):
        script.go.set()
    for batch in (ours, shared):
        await taking.becomes(batch, "completed")
    await runner.wait_idle()
    last = await taking.order()  # both have looked by the time that it is taken
    await taking.becomes(last, "completed")
    assert (of_many.began, of_one.began) == ([shared.id, last.id], [ours.id])
    untouched = await taking.now(theirs)
    assert (untouched.claim, untouched.status) == (None, None)


async def test_a_runner_that_was_started_again_goes_on_at_once(taking: Taking, etcd: EtcdCluster) -> None:
    batch = await taking.order()
    lease = Lease(etcd.config(), ttl_s=120)  # of its former process, which was killed
    await lease.start()
    await claim(taking.store, batch, runner="r1", cluster="east", lease=lease.id, now=time.time())
    other, script = Script(), Script()
    await taking.runner("r2", other)
    await taking.runner("r1", script)
    now = await begun(taking, batch)
    assert now.claim is not None
    assert (now.claim.runner, now.claim.epoch, other.began) == ("r1", 2, [])
    await lease.revoke()


async def test_a_cancelled_batch_is_published_as_it_is(taking: Taking) -> None:
    script = Script()
    batch = await taking.order()
    await taking.runner("r1", script)
    await begun(taking, batch)
    await taking.book.cancel(batch.namespace, batch.id, time.time())
    ended = await taking.becomes(batch, "cancelled")
    assert (script.stopped, script.published) == ([batch.id], [(batch.id, Halt.CANCELLED)])
    assert ended.status is not None
    assert ended.status.completed == 4


async def test_windows_that_end_on_the_way(taking: Taking) -> None:
    """What is done by then is completed, where that is all of it."""
    async with AsyncExitStack() as stack:
        halves, whole = taking, Taking(taking.store, stack)
        script = Script(done=10)
        await halves.runner("r1", Script())
        await whole.runner("r2", script)
        short, done = await halves.order(window_s=40), await whole.order(window_s=40)  # half a minute to be taken
        ended = await halves.becomes(short, "expired")
        assert ended.status is not None
        assert ended.status.completed == 4
        await whole.becomes(done, "completed")
        assert script.published == [(done.id, Halt.EXPIRED)]


async def test_a_runner_that_leaves_gives_its_batch_back(taking: Taking) -> None:
    first, second = Script(), Script()
    batch = await taking.order()
    runner = await taking.runner("r1", first)
    await begun(taking, batch)
    runner.refuse()
    await runner.wait_idle()
    assert (first.stopped, first.published, (await taking.now(batch)).claim) == ([batch.id], [], None)
    second.go.set()
    await taking.runner("r2", second)
    ended = await taking.becomes(batch, "completed")
    assert ended.status is not None
    assert ended.status.epoch == 2


async def test_who_has_lost_a_batch_stops_and_publishes_nothing(taking: Taking) -> None:
    script = Script()
    batch = await taking.order()
    runner = await taking.runner("r1", script)
    now = await begun(taking, batch)
    assert now.status is not None
    taken = pb.BatchStatus()
    taken.CopyFrom(now.status)
    taken.epoch += 1
    mine = pb.BatchClaim(runner="r9", cluster="west", epoch=taken.epoch)
    await taking.store.put(keys.batch(batch.namespace, batch.id, STATUS), encode(taken))
    await taking.store.put(keys.batch(batch.namespace, batch.id, "claim"), encode(mine))
    await asyncio.wait_for(runner.wait_idle(), 300)
    assert (script.stopped, script.published) == ([batch.id], [])
    assert (await taking.now(batch)).claim == mine


async def test_a_job_that_fails_is_left_to_others_for_a_while(taking: Taking) -> None:
    broken, whole = Script(fail="the disk is away"), Script()
    whole.go.set()
    batch = await taking.order()
    await taking.runner("r1", broken)
    await aeventually(lambda: asyncio.sleep(0, broken.began), timeout_s=300, what="it was tried")
    await taking.runner("r2", whole)
    await taking.becomes(batch, "completed")
    assert whole.published == [(batch.id, None)]


async def test_a_model_that_nobody_has_refuses_a_new_batch_and_not_one_under_way(taking: Taking) -> None:
    first, second = Script(), Script(models=None)
    batch = await taking.order()
    runner = await taking.runner("r1", first)
    await begun(taking, batch)
    runner.refuse()
    await runner.wait_idle()
    new = await taking.order()
    await taking.runner("r2", second, concurrency=2)
    refused = await taking.becomes(new, "failed")
    assert refused.status is not None
    assert [one.code for one in refused.status.errors] == ["model_not_found"]
    now = await taking.now(batch)
    assert now.status is not None
    assert (word_of(now, time.time()), now.status.completed) == ("in_progress", 4)
    second.models = {}
    second.go.set()
    await taking.becomes(batch, "completed")
