"""One batch under one claim, without etcd: what is written of it, and when it is let go."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import Batch
from serving.batch.orders.claims import Claimed, ClaimEnded
from serving.batch.runner.instruments import RunnerInstruments
from serving.batch.runner.job import Checked, Counts, Halt, Published
from serving.batch.runner.work import Work
from serving.errors import DataLoss, NotFound
from serving.gateway.catalog import ModelKey
from serving.stamps import stamp
from tests.support.batches import order_of


class Claim:
    """A claim whose writes are kept."""

    epoch = 1

    def __init__(self) -> None:
        self.batch = Batch(order_of(created=time.time()))
        self.status = pb.BatchStatus(state=pb.VALIDATING)
        self.released = False
        self.on_write: Callable[[pb.BatchStatus], object] = lambda _: None

    async def write(self, status: pb.BatchStatus, files: Sequence[pb.FileRecord] = ()) -> None:  # noqa: ARG002
        self.on_write(status)
        self.status = pb.BatchStatus()
        self.status.CopyFrom(status)

    async def release(self) -> None:
        self.released = True


class Job:
    def __init__(self) -> None:
        self.published: list[Halt | None] = []
        self.lost = False
        self.in_publish = threading.Event()
        self.in_run = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def check(self) -> Checked:
        if self.lost:
            raise DataLoss("the content /var/x is not there")
        return Checked(3, ("m",))

    def run(self, models: dict[str, ModelKey], tell: Callable[[Counts], None], stop: threading.Event) -> None:  # noqa: ARG002
        self.in_run.set()
        assert self.go.wait(60)

    def publish(self, halt: Halt | None) -> Published:
        self.in_publish.set()
        assert self.go.wait(60)
        self.published.append(halt)
        return Published(Counts(3, 3, 0))

    def unpublish(self, published: Published) -> None:
        """It made no files."""

    def discard(self) -> None:
        """It kept nothing."""


async def find_at_once(order: pb.BatchOrder, names: tuple[str, ...]) -> dict[str, ModelKey]:  # noqa: ARG001
    return {}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def work_of(
    claim: Claim,
    job: Job,
    threads: ThreadPoolExecutor,
    find: Any = find_at_once,
    holds: Callable[[], bool] = lambda: True,
) -> Work:
    instruments = RunnerInstruments(CollectorRegistry())
    return Work(cast(Claimed, claim), job, find, instruments, threads, holds=holds, max_attempts=3)


async def entered(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 60)


async def test_a_batch_put_back_before_its_model_is_found_is_not_begun(threads: ThreadPoolExecutor) -> None:
    claim, asked = Claim(), asyncio.Event()

    async def find(order: pb.BatchOrder, names: tuple[str, ...]) -> dict[str, ModelKey]:  # noqa: ARG001
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    work = work_of(claim, Job(), threads, find)
    running = asyncio.create_task(work.run())
    await asked.wait()
    work.stop.ask(Halt.PUT_BACK)
    assert await running is Halt.PUT_BACK
    assert claim.released
    assert (claim.status.state, claim.status.HasField("in_progress_at")) == (pb.VALIDATING, False)

    async def nobody(order: pb.BatchOrder, names: tuple[str, ...]) -> dict[str, ModelKey]:  # noqa: ARG001
        raise NotFound("the model `m` does not exist")

    assert await work_of(claim, Job(), threads, nobody).run() is None
    assert claim.status.state == pb.FAILED_VALIDATION


@pytest.mark.parametrize("why", [Halt.PUT_BACK, Halt.LOST])
async def test_a_batch_let_go_while_its_end_is_written_is_not_published(why: Halt, threads: ThreadPoolExecutor) -> None:
    claim, job = Claim(), Job()
    work = work_of(claim, job, threads)
    claim.on_write = lambda status: work.stop.ask(why) if status.state == pb.FINALIZING else None
    assert await work.run() is why
    assert job.published == []
    assert claim.released is (why is Halt.PUT_BACK)


async def test_a_batch_put_back_while_its_output_is_made_has_ended(threads: ThreadPoolExecutor) -> None:
    claim, job = Claim(), Job()
    work = work_of(claim, job, threads)
    job.in_publish.set()
    claim.on_write = lambda status: work.stop.ask(Halt.PUT_BACK) if status.state == pb.COMPLETED else None
    assert await work.run() is None
    assert claim.status.state == pb.COMPLETED


async def test_a_lease_that_ends_while_a_status_is_written_costs_no_batch(threads: ThreadPoolExecutor) -> None:
    """The runner takes the claim again with its next lease; only one that it still holds was taken from it."""
    claim, holds = Claim(), [True]

    def ends(status: pb.BatchStatus) -> None:
        if status.state == pb.IN_PROGRESS:
            holds[0] = False
            claim.on_write = lambda _: None
            asyncio.get_running_loop().call_later(0.01, lambda: holds.__setitem__(0, True))  # it has another one
            raise ClaimEnded("the claim has ended with its lease")

    claim.on_write = ends
    assert await work_of(claim, Job(), threads, holds=lambda: holds[0]).run() is None
    assert claim.status.state == pb.COMPLETED

    def gone(_: pb.BatchStatus) -> None:
        raise ClaimEnded("somebody has deleted it")

    claim = Claim()
    claim.on_write = gone
    assert await work_of(claim, Job(), threads).run() is Halt.LOST


async def test_an_input_that_is_lost_refuses_the_batch(threads: ThreadPoolExecutor) -> None:
    claim, job = Claim(), Job()
    job.lost = True
    assert await work_of(claim, job, threads).run() is None
    assert claim.status.state == pb.FAILED_VALIDATION
    (fault,) = claim.status.errors
    assert (fault.code, fault.line, fault.param) == ("input_file_damaged", 0, "input_file_id")
    assert "/var/x" not in fault.message


async def test_only_a_job_that_runs_on_is_unheard(threads: ThreadPoolExecutor) -> None:
    claim, job = Claim(), Job()
    job.go.clear()
    work = work_of(claim, job, threads)
    running = asyncio.create_task(work.run())
    await entered(job.in_run)
    far = time.monotonic() + 1000
    assert work.unheard_s(far) == 0.0
    work.stop.ask(Halt.CANCELLED)
    assert work.unheard_s(far) > 900
    job.go.set()
    await entered(job.in_publish)
    assert work.unheard_s(far) == 0.0
    assert await running is None
    assert claim.status.state == pb.CANCELLED_BATCH


async def test_a_job_that_runs_on_past_its_window_is_unheard(threads: ThreadPoolExecutor) -> None:
    claim, job = Claim(), Job()
    job.go.clear()
    work = work_of(claim, job, threads)
    running = asyncio.create_task(work.run())
    await entered(job.in_run)
    claim.batch.order.expires_at.CopyFrom(stamp(time.time() - 1))
    await entered(work.stop.event)
    assert work.stop.why is Halt.EXPIRED
    assert work.unheard_s(time.monotonic() + 1000) > 900
    job.go.set()
    await running
