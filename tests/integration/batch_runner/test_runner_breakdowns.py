"""Batches at a real runner whose etcd goes away, that is killed while it makes the output, or has no room for it."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import openai
import pytest

from serving._proto import batch_pb2 as pb
from serving.batch.store.content import ContentStore
from serving.batch.store.files import read_files
from serving.store import EtcdClient, keys
from tests.support.batch_world import BatchWorld, RunnerHandle, counts, many_lines
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]
_SOME = 2500  # lines: a fast machine needs some looks for them; their output has more than a megabyte
_LEASE_S = 5
_SMALL = 200_000  # bytes: more than logs write, less than the output


@pytest.fixture(scope="module", autouse=True)
def runner(world: BatchWorld) -> Iterator[RunnerHandle]:
    with ExitStack() as stack:
        yield world.runner("runner-of-breakdowns", stack, concurrency=1, lease_ttl_s=_LEASE_S)


def input_path(world: BatchWorld, batch_id: str) -> Path:
    order = world.records("default", batch_id).order

    async def read(etcd: EtcdClient) -> str:
        found = await etcd.get(keys.file("default", order.input_file))
        assert found is not None
        return next(iter(read_files([found]).values())).uri

    return ContentStore(order.store).path(world.ask(read))


@contextmanager
def held_back(path: Path) -> Iterator[None]:
    """Whoever opens the file now waits, until it is killed."""
    aside = path.with_suffix(".aside")
    path.rename(aside)
    os.mkfifo(path)
    try:
        yield
    finally:
        aside.rename(path)


@contextmanager
def in_the_way_of(folder: Path) -> Iterator[None]:
    """Nothing can be written there."""
    aside = folder.with_suffix(".aside")
    folder.rename(aside)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


@contextmanager
def no_file_longer(pid: int, size: int) -> Iterator[None]:
    """For this process the disk is full behind so many bytes of a file; the kernel says so."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def answered_each_once(world: BatchWorld, batch_id: str, lines: int) -> None:
    batch = world.ended(batch_id)
    assert (batch.status, counts(batch)) == ("completed", (lines, lines, 0))
    answers = world.lines(batch.output_file_id)
    assert [one["custom_id"] for one in answers] == [str(number) for number in range(lines)]
    eventually(lambda: not world.left_behind(), timeout_s=300, what="nothing is left of the job")
    outputs = [one.id for one in world.client.files.list(purpose="batch_output") if batch_id in one.filename]
    assert outputs == [batch.output_file_id], "no second output"


def gateway_answers(world: BatchWorld, batch_id: str) -> bool:
    try:
        return bool(world.batch(batch_id))
    except openai.InternalServerError:  # 503
        return False


def test_a_runner_takes_its_claim_again_when_etcd_is_back(world: BatchWorld, runner: RunnerHandle) -> None:
    batch_id = world.order(many_lines(_SOME))
    world.under_way(batch_id)
    world.etcd_server.kill()
    try:

        def lost() -> bool:
            return any(one["msg"] == "the lease of the claims was lost" and one["running"] == 1 for one in runner.log())

        eventually(lost, timeout_s=120, what="the lease is over")
    finally:
        world.etcd_server.start()
    eventually(lambda: gateway_answers(world, batch_id), timeout_s=120, what="the gateway reads etcd again")
    answered_each_once(world, batch_id, _SOME)
    status = world.status(batch_id)
    assert (status.epoch, runner.computed(batch_id)) == (1, [_SOME]), "nobody began it again"


def test_a_runner_killed_while_it_makes_the_output(world: BatchWorld, runner: RunnerHandle) -> None:
    batch_id = world.order(many_lines(_SOME))
    world.under_way(batch_id)
    with held_back(input_path(world, batch_id)):  # which is read again for the output
        eventually(
            lambda: world.status(batch_id).state == pb.FINALIZING, timeout_s=500, what="the output is being made"
        )
        runner.kill()
    answered_each_once(world, batch_id, _SOME)
    assert world.status(batch_id).epoch == 2
    assert runner.computed(batch_id) == [_SOME, 0], "nothing is computed again"


def test_an_output_that_has_no_room_is_made_when_there_is(world: BatchWorld, runner: RunnerHandle) -> None:
    batch_id = world.order(many_lines(_SOME))
    world.under_way(batch_id)
    with in_the_way_of(world.store / "uploads"):
        eventually(lambda: "did not answer" in world.status(batch_id).last_failure, timeout_s=500, what="it was tried")
        limit = no_file_longer(runner.report().pid, _SMALL)
        limit.__enter__()
    try:
        eventually(lambda: "is full" in world.status(batch_id).last_failure, timeout_s=300, what="it met the full disk")
        assert not list((world.store / "uploads").iterdir()), "nothing half is left"
    finally:
        limit.__exit__(None, None, None)
    answered_each_once(world, batch_id, _SOME)
    assert world.status(batch_id).attempts == 0
