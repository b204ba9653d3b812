"""Results in files beside the journal: what a crash at any line leaves, and what becomes of it."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from serving.broker.items import State
from serving.broker.large_results import LARGE_BYTES, LargeResults, folder_of
from serving.broker.shelf import remove_journal
from serving.control.clock import ManualClock
from serving.errors import DataLoss, MeshError, NotFound, ResourceExhausted, Unavailable
from tests.support.shards import HeldShard

LARGE = os.urandom(LARGE_BYTES + 1)
Make = Callable[..., Any]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[HeldShard] = []
    clock = ManualClock()

    async def opened(**changes: Any) -> HeldShard:
        made.append(await HeldShard(tmp_path / "j1.sqlite", clock, result_ttl_s=10.0, **changes).open())
        return made[-1]

    yield opened
    for one in made:
        await one.close()


def files(held: HeldShard) -> list[str]:
    folder = folder_of(held.path)
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def fails(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def ended(held: HeldShard, result: bytes = LARGE) -> int:
    number = await held.submit()
    item = await held.start()
    assert item is not None
    assert await held.done(number, item.attempt, result)
    return number


@pytest.mark.parametrize("sync", ["full", "normal"])
async def test_a_large_result_has_a_file_until_its_time_is_over(make: Make, sync: str) -> None:
    held = await make(sync=sync)
    small, large = await ended(held, LARGE[:-1]), await ended(held)
    assert files(held) == [f"{large}-1"]
    assert held.shard.journal.bytes > 2 * LARGE_BYTES
    await held.close()

    held = await make(sync=sync)
    assert (await held.clients.get(large))[1] == LARGE
    assert (await held.clients.get(small))[1] == LARGE[:-1]
    await held.tick(11)
    with pytest.raises(NotFound):
        await held.clients.get(large)
    assert files(held) == []
    assert held.shard.journal.bytes == 0


@pytest.mark.parametrize(("sync", "wanted"), [("full", True), ("normal", True), ("off", False)])
def test_files_and_their_names_are_on_disk_before_rows_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: str, wanted: bool
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(file: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    LargeResults(tmp_path / "j1.sqlite", sync).write(1, 2, LARGE)
    assert synced == ([tmp_path.name, "1-2.part", "j1.results"] if wanted else [])


async def test_what_no_commit_names_is_removed_when_the_journal_is_opened(make: Make) -> None:
    """A file whose commit a kill has cut off, one that was half written, and one whose item is forgotten."""
    held = await make()
    kept = await ended(held)
    waits = await held.submit()
    item = await held.start()
    assert item is not None
    await held.close()
    results = LargeResults(held.path, "full")
    for number, attempt in ((waits, item.attempt), (kept, 2), (99, 1)):
        results.write(number, attempt, LARGE)
    folder = folder_of(held.path)
    (folder / f"{waits}-1.part").write_bytes(b"half")
    (folder / "of somebody else").write_bytes(b"")

    held = await make()
    assert files(held) == [f"{kept}-1"]
    assert (await held.clients.get(kept))[1] == LARGE
    assert (await held.clients.get(waits))[0].state is State.RUNNING
    assert await held.done(waits, item.attempt, LARGE[::-1]), "its replica says it again"
    assert (await held.clients.get(waits))[1] == LARGE[::-1]


async def test_of_two_attempts_the_one_that_was_stored_counts(make: Make) -> None:
    held = await make()
    number = await held.submit()
    first = await held.start()
    assert first is not None
    held.shard.again(number, first.attempt, "full", lambda _: None)
    await held.settle()
    second = await held.start("s")
    assert second is not None
    assert not await held.done(number, first.attempt, LARGE)
    assert await held.done(number, second.attempt, LARGE[::-1])
    assert not await held.done(number, second.attempt, LARGE), "one result is stored"
    assert files(held) == [f"{number}-{second.attempt}"]
    assert (await held.clients.get(number))[1] == LARGE[::-1]


async def test_a_disk_that_takes_no_file_leaves_the_outcome_with_the_replica(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await make()
    number = await held.submit()
    item = await held.start()
    assert item is not None

    with monkeypatch.context() as patch:
        patch.setattr(LargeResults, "_have_folder", fails)
        assert not await held.done(number, item.attempt, LARGE), "it is not confirmed"
    assert (await held.clients.get(number))[0].state is State.RUNNING
    assert held.shard.journal.unwritten_bytes == 0
    assert await held.done(number, item.attempt, LARGE)
    assert (await held.clients.get(number))[1] == LARGE


async def test_a_commit_that_fails_after_its_file_is_said_again(make: Make) -> None:
    held = await make()
    number = await held.submit()
    item = await held.start()
    assert item is not None
    held.shard.journal._writer.execute("PRAGMA query_only=ON")
    assert not await held.done(number, item.attempt, LARGE)
    assert files(held) == [], "it would lie there uncounted"
    held.shard.journal._writer.execute("PRAGMA query_only=OFF")
    assert await held.done(number, item.attempt, LARGE)
    assert files(held) == [f"{number}-1"]


async def test_a_file_stays_where_its_commit_may_be_kept_after_all(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    held = await make()
    number = await held.submit()
    item = await held.start()
    assert item is not None
    journal = held.shard.journal
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_commit", lambda _: Unavailable("the disk fails"))
        assert not await held.done(number, item.attempt, LARGE)
    assert files(held) == [f"{number}-1"]
    monkeypatch.setattr(LargeResults, "_have_folder", fails)
    assert not await held.done(number, item.attempt, LARGE), "another one is not written"
    assert files(held) == [f"{number}-1"], "the first one stays"


async def test_a_file_stays_that_a_lost_log_may_have(make: Make) -> None:
    held = await make()
    number = await held.submit()
    item = await held.start()
    assert item is not None
    journal = held.shard.journal

    class Lost:
        failure: MeshError | None = None

        def append(self, *_: object) -> None:
            self.failure = ResourceExhausted("nobody knows")
            raise self.failure

    journal._log = Lost()
    assert not await held.done(number, item.attempt, LARGE)
    assert files(held) == [f"{number}-1"]


async def test_a_result_that_somebody_has_removed_is_said_to_be_lost(make: Make) -> None:
    held = await make()
    number = await ended(held)
    (folder_of(held.path) / f"{number}-1").write_bytes(b"cut")
    with pytest.raises(DataLoss, match=f"the result of item j1.{number} is missing"):
        await held.clients.get(number)
    assert held.shard.journal.failure is None, "the others are whole"


async def test_they_go_with_their_journal(make: Make, tmp_path: Path) -> None:
    held = await make()
    await ended(held)
    await held.close()
    remove_journal(held.path)
    assert os.listdir(tmp_path) == ["j1.lock"]
