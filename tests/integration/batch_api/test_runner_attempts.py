"""Batches whose jobs break again and again, at runners at a real etcd."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import Batch, ends_at
from serving.batch.orders.claims import claim
from serving.batch.orders.view import view
from serving.batch.runner import attempts
from serving.batch.runner.job import Halt
from serving.control import Backoff
from serving.local.etcd import EtcdCluster
from serving.store.lease import Lease
from tests.support.runner_taking import Script, Taking, begun
from tests.support.waiting import aeventually

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Backoff(first_s=0.01, limit_s=0.01, jitter=0.0)
    monkeypatch.setattr(attempts, "_REST", short)
    monkeypatch.setattr(attempts, "_HERE", short)


async def status_of(taking: Taking, batch: Batch) -> pb.BatchStatus:
    found = (await taking.now(batch)).status
    assert found is not None
    return found


async def test_attempts_are_counted_over_runners_until_the_batch_fails(taking: Taking) -> None:
    first, second = Script(fail="10.0.0.1 is away"), Script(fail="10.0.0.1 is away")
    batch = await taking.order()
    runner = await taking.runner("r1", first, max_attempts=1000)

    async def broke_twice() -> bool:
        return (await status_of(taking, batch)).attempts >= 2

    await aeventually(broke_twice, what="it was tried twice")
    await runner.close()
    tried = (await status_of(taking, batch)).attempts  # also one that was cut off
    await taking.runner("r2", second, max_attempts=tried + 2)
    ended = await taking.becomes(batch, "failed")
    assert ended.claim is None
    told = view(ended, time.time())
    assert (len(second.began), told["attempts"]) == (2, tried + 2)
    assert told["errors"] is not None
    (fault,) = told["errors"]["data"]
    assert (fault["code"], fault["line"]) == ("attempts_exhausted", None)
    assert fault["message"].startswith(
        f"given up after {tried + 2} attempts one after the other without progress: what it needs"
    )
    assert "10.0.0.1" not in fault["message"]
    assert second.published == [(batch.id, Halt.GIVEN_UP)]


async def test_progress_begins_the_count_anew(taking: Taking) -> None:
    script = Script(stumble="the cluster is away", done=0)
    batch = await taking.order()
    await taking.runner("r1", script, max_attempts=2)
    await aeventually(lambda: asyncio.sleep(0, len(script.began) >= 6), what="it was tried on")
    script.stumble = ""
    script.go.set()
    ended = await taking.becomes(batch, "completed")
    told = view(ended, time.time())
    assert (told["attempts"], told["last_failure"], told["errors"]) == (0, None, None)


async def test_what_breaks_is_told_while_the_batch_waits(taking: Taking) -> None:
    batch = await taking.order()
    script = Script(fail="gone")
    runner = await taking.runner("r1", script)

    async def told() -> bool:
        return view(await taking.now(batch), time.time())["last_failure"] is not None

    await aeventually(told, what="it is told")
    await runner.close()
    last = view(await taking.now(batch), time.time())
    assert last["attempts"] >= 1
    assert last["status"] == "in_progress"
    assert "epoch" in (last["last_failure"] or "")


async def test_an_output_that_can_never_be_made_ends_the_batch(taking: Taking) -> None:
    script = Script(publish_fails=True)
    script.go.set()
    batch = await taking.order()
    await taking.runner("r1", script, max_attempts=3)
    ended = view(await taking.becomes(batch, "failed"), time.time())
    assert ended["errors"] is not None
    assert "internal error" in ended["errors"]["data"][0]["message"]
    assert "/var/secret" not in str(ended)
    assert (ended["output_file_id"], ended["attempts"]) == (None, 3)
    assert script.published == [(batch.id, None)] * 3 + [(batch.id, Halt.GIVEN_UP)]


async def died(taking: Taking, etcd: EtcdCluster, batch: Batch, *, times: int) -> None:
    """So many runners that took it, one after the other."""
    for number in range(times):
        lease = Lease(etcd.config(), ttl_s=30)
        await lease.start()
        at = await taking.now(batch)
        await claim(taking.store, at, runner=f"dead-{number}", cluster="east", lease=lease.id, now=time.time())
        await lease.revoke()


async def test_runners_that_die_of_a_batch_count(taking: Taking, etcd: EtcdCluster) -> None:
    batch = await taking.order()
    await died(taking, etcd, batch, times=3)
    script = Script()
    await taking.runner("r1", script, max_attempts=3)
    ended = view(await taking.becomes(batch, "failed"), time.time())
    assert script.began == []
    assert ended["attempts"] == 3
    assert ended["errors"] is not None
    assert "the runner ended in the middle" in ended["errors"]["data"][0]["message"]


class Deadly(Script):
    """Its runner dies of one batch; the others end where that one is not beside them."""

    def __init__(self, deadly: str) -> None:
        super().__init__(done=0)
        self.deadly = deadly
        self.dies = threading.Event()

    def runs(self, batch_id: str) -> None:
        if batch_id == self.deadly:
            self.dies.set()
        elif not self.dies.wait(1.0):
            self.go.set()


async def all_over(taking: Taking, batches: list[Batch]) -> bool:
    return all([ends_at(await taking.now(one), time.time()) is not None for one in batches])


async def dies_or(script: Deadly, over: Callable[[], Awaitable[bool]]) -> bool:
    return script.dies.is_set() or await over()


async def test_an_innocent_batch_is_not_given_up_with_the_one_its_runner_dies_of(taking: Taking) -> None:
    deadly, innocent = await taking.order(), await taking.order(tenant="b")
    beside: list[set[str]] = []
    for number in range(40):
        script = Deadly(deadly.id)
        runner = await taking.runner(f"r{number}", script, concurrency=2, max_attempts=5)
        over = partial(all_over, taking, [deadly, innocent])
        await aeventually(lambda s=script, o=over: dies_or(s, o), what="the runner dies, or all are over")  # type: ignore[misc]
        await runner.close()
        beside.append(set(script.began))
        if await over():
            break
    assert {deadly.id, innocent.id} in beside, "they ran together before one was known to be at fault"
    told = view(await taking.becomes(deadly, "failed"), time.time())
    assert told["errors"] is not None
    assert "the runner ended in the middle" in told["errors"]["data"][0]["message"]
    await taking.becomes(innocent, "completed")


async def test_nothing_comes_beside_a_batch_that_runs_alone(taking: Taking, etcd: EtcdCluster) -> None:
    suspect = await taking.order()
    await died(taking, etcd, suspect, times=2)
    script = Script(done=0)
    await taking.runner("r1", script, concurrency=3)
    await aeventually(lambda: asyncio.sleep(0, script.began), what="the suspect runs")
    other, marker = await taking.order(tenant="b"), Script()
    marker.go.set()
    await taking.runner("r2", marker)  # it takes what r1 leaves
    await taking.becomes(other, "completed")
    assert (script.began, marker.began) == ([suspect.id], [other.id])
    script.go.set()
    await taking.becomes(suspect, "completed")


async def test_a_runner_that_is_never_empty_is_emptied(
    taking: Taking, etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.batch.runner.taking.SLICE_S", 0.5)
    monkeypatch.setattr("serving.batch.runner.taking.PRESSES_S", 0.5)
    suspect = await taking.order(tenant="b", window_s=7200)
    await died(taking, etcd, suspect, times=2)
    script, busy = Script(), await taking.order()  # which is due first
    await taking.runner("r1", script, concurrency=2)
    await begun(taking, busy)
    await aeventually(lambda: asyncio.sleep(0, suspect.id in script.began), what="the suspect runs")
    assert script.stopped[0] == busy.id
    script.go.set()
    for batch in (suspect, busy):
        await taking.becomes(batch, "completed")


async def test_what_the_batch_waits_for_is_no_attempt(taking: Taking) -> None:
    script = Script(not_served=True)
    batch = await taking.order()
    await taking.runner("r1", script, max_attempts=2)
    await aeventually(lambda: asyncio.sleep(0, script.asked >= 5), what="its model was looked for")
    script.not_served = False
    script.go.set()
    ended = await taking.becomes(batch, "completed")
    assert view(ended, time.time())["attempts"] == 0


async def test_a_runner_that_leaves_takes_its_attempt_back(taking: Taking) -> None:
    batch = await taking.order()
    for number in range(3):
        script = Script(done=0)
        runner = await taking.runner(f"r{number}", script, max_attempts=2)
        await aeventually(lambda script=script: asyncio.sleep(0, script.began), what="it runs")  # type: ignore[misc]
        runner.refuse()
        await runner.wait_idle()
        status = await status_of(taking, batch)
        assert (status.attempts, status.epoch) == (0, number + 1)
        await runner.close()
