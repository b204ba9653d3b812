"""Journals: groups, recovery, damage, full disks, folders that cannot be written."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from serving.broker import queries
from serving.broker.home import Home
from serving.broker.items import NEVER, Callback, Item, State
from serving.broker.journal import Journal
from serving.broker.journal_changes import Change
from serving.broker.settings import BrokerSettings
from serving.broker.shelf import JournalLock
from serving.control.clock import ManualClock
from serving.errors import (
    DataLoss,
    FailedPrecondition,
    Internal,
    MeshError,
    ResourceExhausted,
    SpecError,
    Unavailable,
)
from tests.support.shards import HeldShard
from tests.support.waiting import eventually_async


def an_item(number: int, **changes: object) -> Item:
    usual = {"deployment": "it", "tenant": "t", "key": "", "priority": 2, "submitted": 1.0, "deadline": NEVER}
    rest = {"expected_s": 0.0, "ttl_s": 0.0, "size_bytes": 4}
    return Item(number, **{**usual, **rest, **changes})  # type: ignore[arg-type]


async def written(journal: Journal, *changes: Change) -> list[MeshError | None]:
    answer: asyncio.Future[list[MeshError | None]] = asyncio.get_running_loop().create_future()
    journal.write(changes, answer.set_result)
    return await answer


async def opened(path: Path, sync: str = "full") -> Journal:
    return await asyncio.to_thread(Journal.open, path, asyncio.get_running_loop(), sync)


@pytest_asyncio.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    made = await opened(tmp_path / "j1.sqlite")
    yield made
    await asyncio.to_thread(made.close)


async def test_what_is_confirmed_is_there_for_others(journal: Journal) -> None:
    item = an_item(1, labels={"a": "ü"}, key="k")
    assert await written(journal, Change.submitted(item, b"body")) == [None]
    with sqlite3.connect(journal.path) as other:
        assert queries.items_with_requests(other, [1]) == {1: (item, b"body")}
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (journal.items, journal.bytes) == (1, item.kept_bytes)


async def test_what_comes_during_a_commit_is_one_group(journal: Journal) -> None:
    """The writer is held in its first commit; all that comes meanwhile makes the second."""
    entered, go = threading.Event(), threading.Event()

    def hold(_seconds: float, _changes: int) -> None:
        entered.set()
        go.wait(30)

    journal.commits.on_commit = hold
    first = asyncio.create_task(written(journal, Change.submitted(an_item(1), b"")))
    await asyncio.to_thread(entered.wait, 30)
    rest = [asyncio.create_task(written(journal, Change.submitted(an_item(n), b""))) for n in range(2, 202)]
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(first, *rest) == [[None]] * 201
    assert (journal.commits.groups, journal.commits.changes) == (2, 201)


async def test_one_that_cannot_be_written_takes_no_other_with_it(journal: Journal) -> None:
    changes = [Change.submitted(an_item(number, key=f"k{number % 3}"), b"x") for number in range(1, 6)]
    errors = await written(journal, *changes)
    assert [type(error) for error in errors] == [type(None)] * 3 + [Internal] * 2
    assert journal.items == 3
    assert await written(journal, Change.submitted(an_item(9), b"x")) == [None]


async def test_one_that_cannot_be_written_costs_few_commits(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may wait for a disk for a second."""
    commit, sizes = journal._commit, []

    def counted(changes: Sequence[Change]) -> MeshError | None:
        sizes.append(len(changes))
        return commit(changes)

    monkeypatch.setattr(journal, "_commit", counted)
    keys = [f"k{100 if number == 200 else number}" for number in range(256)]
    errors = await written(journal, *(Change.submitted(an_item(at + 1, key=key), b"x") for at, key in enumerate(keys)))
    assert [at for at, error in enumerate(errors) if error is not None] == [200]
    assert len(sizes) == 1 + 2 * 8, "two for each halving"
    assert (journal.items, journal.commits.changes, journal.commits.failed) == (255, 255, 1)


async def test_nothing_is_written_to_a_journal_that_has_failed(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its index may lack what was kept before, so nothing may be derived from it for others to keep."""
    commit, refusals = journal._commit, [Internal("the group is refused")]

    def broken(changes: Sequence[Change]) -> MeshError | None:
        if refusals:
            return refusals.pop()
        outcome = commit(changes)
        journal._failure = DataLoss("it is damaged")
        return outcome

    monkeypatch.setattr(journal, "_commit", broken)
    errors = await written(journal, *(Change.submitted(an_item(number), b"x") for number in range(1, 5)))
    assert [type(error) for error in errors] == [type(None)] * 2 + [DataLoss] * 2
    assert journal.items == 2


async def test_a_full_disk_refuses_what_does_not_fit(journal: Journal) -> None:
    """`max_page_count` is SQLite's own end of the disk."""
    assert await written(journal, Change.submitted(an_item(1), b"small")) == [None]
    pages = journal._writer.execute("PRAGMA page_count").fetchone()[0]
    journal._writer.execute(f"PRAGMA max_page_count={pages + 4}")
    large, small = Change.submitted(an_item(2), bytes(1_000_000)), Change.submitted(an_item(3), b"small")
    errors = await written(journal, large, small)
    assert isinstance(errors[0], ResourceExhausted)
    assert "make room" in errors[0].message
    assert errors[1] is None
    assert journal.failure is None
    assert [item.number for item in await journal.read(partial(queries.items, numbers=[1, 2, 3]))] == [1, 3]
    assert (journal.items, journal.bytes) == (2, 2 * an_item(1).kept_bytes)
    journal._writer.execute("PRAGMA max_page_count=100000")
    assert await written(journal, large) == [None]


async def test_the_log_is_bounded_beside_a_reader(journal: Journal) -> None:
    """Some 200 MB go through a log of 64."""
    log = journal.path.with_name("j1.sqlite-wal")
    most = 0
    for number in range(1, 14):
        await written(journal, Change.submitted(an_item(number), os.urandom(16 << 20)))
        await journal.read(partial(queries.live, after=0))
        most = max(most, log.stat().st_size)
    assert most < 110 << 20


async def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "j1.sqlite")
    item = an_item(7)
    await written(journal, Change.submitted(item, b""))
    await written(journal, Change.removed(item))
    await asyncio.to_thread(journal.close)
    again = await opened(tmp_path / "j1.sqlite")
    assert (again.last_number, again.items, again.bytes) == (7, 0, 0)
    await asyncio.to_thread(again.close)


async def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "j1.sqlite")
    await asyncio.to_thread(journal.close)
    await asyncio.to_thread(journal.close)
    (error,) = await written(journal, Change.submitted(an_item(1), b""))
    assert isinstance(error, Unavailable)
    with pytest.raises(Unavailable):
        await journal.read(partial(queries.live, after=0))


def _rubbish(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE cats (name TEXT)")


def _half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(len(data) - 4096))


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [(_rubbish, DataLoss), (_foreign, DataLoss), (_half, DataLoss), (_newer, FailedPrecondition)],
)
async def test_a_home_leaves_what_it_cannot_read_and_serves_the_others(
    tmp_path: Path, spoil, kind: type[MeshError]
) -> None:
    bad = tmp_path / "jbad.sqlite"
    if spoil in (_half, _newer):
        held = await HeldShard(bad, ManualClock()).open()
        for _ in range(50):
            await held.submit(bytes(500))
        await held.close()
    spoil(bad)
    before = bad.read_bytes()
    with pytest.raises(kind):
        (await HeldShard(bad, ManualClock()).open()).close()
    home = Home(BrokerSettings(folder=tmp_path, deployments=("it",)))
    await home.start()
    try:
        assert "jbad" in home.refused[next(iter(home.refused))]
        assert list(home.refused) == ["jbad"]
        assert len(home.shards) == 1
    finally:
        await home.close()
    assert bad.read_bytes() == before


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = Home(BrokerSettings(folder=tmp_path / "file" / "below", deployments=("it",)))
    with pytest.raises(FailedPrecondition, match="file"):
        await home.start()


async def test_one_journal_has_one_home_also_in_one_process(tmp_path: Path) -> None:
    settings = BrokerSettings(folder=tmp_path, deployments=("it",))
    homes = [Home(settings), Home(settings)]
    for home in homes:
        await home.start()
    served = [set(home.shards) for home in homes]
    assert served[0]
    assert served[1]
    assert not served[0] & served[1]
    await homes[0].close()
    await eventually_async(
        lambda: len(list(tmp_path.glob("*.sqlite"))) == 1, what="the empty journal is adopted, and gone"
    )
    await eventually_async(lambda: set(homes[1].shards) == served[1], what="nobody serves it")
    await homes[1].close()


async def test_a_lock_of_a_removed_journal_is_no_lock(tmp_path: Path) -> None:
    first, second = JournalLock(tmp_path / "j.sqlite"), JournalLock(tmp_path / "j.sqlite")
    assert first.take()
    assert not second.take()
    first.release(remove=True)
    assert second.take()
    second.release()


@pytest.mark.parametrize(
    "changes", [{"lease_s": 0}, {"max_items": -1}, {"sync": "never"}, {"max_result_bytes": 2 << 30}]
)
def test_settings_that_cannot_be(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises((SpecError, MeshError)):
        BrokerSettings(folder=tmp_path, deployments=("it",), **changes)  # type: ignore[arg-type]


async def test_a_shard_whose_disk_is_full_goes_on(tmp_path: Path) -> None:
    """Submits are refused; an outcome that does not fit is not confirmed, and taken when there is room."""
    held = await HeldShard(tmp_path / "j.sqlite", ManualClock()).open()
    number = await held.submit()
    item = await held.start()
    assert item is not None
    writer = held.shard.journal._writer
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(ResourceExhausted):
        await held.submit(bytes(100_000))
    assert held.shard.limits.items == 1
    result = bytes(200_000)
    assert not await held.done(number, item.attempt, result)
    assert held.shard.running[number].item.state.name == "RUNNING"
    writer.execute("PRAGMA max_page_count=100000")
    assert await held.done(number, item.attempt, result)
    assert (await held.clients.get(number))[1] == result
    await held.close()


async def _keys(journal: Journal, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    return await journal.read(partial(queries.numbers_of_keys, keys=names))


async def test_keys_are_of_a_tenant(journal: Journal) -> None:
    await written(journal, *(Change.submitted(an_item(n, key="k", tenant=str(n)), b"") for n in (1, 2)))
    assert await _keys(journal, [("1", "k"), ("2", "k"), ("3", "k")]) == {("1", "k"): 1, ("2", "k"): 2}


async def test_a_page_looks_at_a_bounded_number_of_rows(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_LOOKED_AT", 10)
    changes = [Change.submitted(an_item(n, tenant="rare" if n == 35 else "t"), b"") for n in range(1, 41)]
    await written(journal, *changes)
    found: list[int] = []
    after: int | None = 0
    pages = 0
    while after is not None:
        items, after = await journal.read(
            lambda database, after=after: queries.page(database, queries.Filter(tenant="rare"), after, 5)
        )
        found += [item.number for item in items]
        pages += 1
    assert (found, pages) == ([35], 5)


FIRST_VERSION = """
CREATE TABLE about (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE totals (id INTEGER PRIMARY KEY CHECK (id = 1), items INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE items (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  deployment TEXT NOT NULL, tenant TEXT NOT NULL, key TEXT, priority INTEGER NOT NULL, submitted REAL NOT NULL,
  expected_s REAL NOT NULL, ttl_s REAL NOT NULL, size_bytes INTEGER NOT NULL, labels TEXT,
  deadline REAL, state INTEGER NOT NULL, attempt INTEGER NOT NULL, attempts INTEGER NOT NULL, replica TEXT NOT NULL,
  process TEXT NOT NULL, started REAL NOT NULL, ended REAL NOT NULL, reason TEXT NOT NULL, expires REAL,
  result_bytes INTEGER NOT NULL
);
CREATE UNIQUE INDEX items_key ON items (tenant, key) WHERE key IS NOT NULL;
CREATE INDEX items_live ON items (number) WHERE state <= 2;
CREATE INDEX items_dead ON items (deployment, number) WHERE state = 5;
CREATE INDEX items_expires ON items (expires) WHERE expires IS NOT NULL;
CREATE TABLE requests (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE results (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
INSERT INTO about VALUES ('key', x'0101010101010101010101010101010101010101010101010101010101010101');
INSERT INTO totals VALUES (1, 2, 608);
INSERT INTO items VALUES
  (3, 'it', 't', 'k', 2, 5.0, 0.0, 0.0, 4, '{"a": "b"}', NULL, 1, 0, 0, '', '', 0.0, 0.0, '', NULL, 0),
  (7, 'it', 't', NULL, 2, 6.0, 0.0, 0.0, 4, NULL, NULL, 3, 1, 1, 'r', 'p', 7.0, 8.0, '', 9000.0, 4);
INSERT INTO requests VALUES (3, x'626f6479');
INSERT INTO results VALUES (7, x'646f6e65');
PRAGMA application_id = 0x4D427231;
PRAGMA user_version = 1;
"""


def first_version(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(FIRST_VERSION)
    database.close()


async def test_a_journal_of_the_version_before_is_read_and_can_do_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "j1.sqlite"
    await asyncio.to_thread(first_version, path)
    held = await HeldShard(path, ManualClock()).open()
    assert (held.shard.journal.items, held.shard.journal.bytes, held.shard.limits.items) == (2, 608, 1)
    done, result = await held.clients.get(7)
    assert (done.state.name, done.replica, done.callback, result) == ("SUCCEEDED", "r", None, b"done")
    assert (await held.clients.known([("t", "k")])) == {("t", "k"): 3}
    started = await held.start()
    assert started is not None
    assert (started.number, dict(started.labels)) == (3, {"a": "b"})
    assert await held.done(3, 1)
    wanted = Callback("https://a.org/", "a.org:443", "s", frozenset({State.CANCELLED}))
    number = await held.submit(callback=wanted)
    assert number == 8
    await held.clients.cancel(number)
    await held.close()
    again = await HeldShard(path, ManualClock()).open()
    assert list(again.shard.callbacks.entries) == [8]
    assert (await again.shard.callbacks.kept(8)).item.callback == wanted
    await again.close()


async def test_an_upgrade_that_cannot_be_written_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "j1.sqlite"
    await asyncio.to_thread(first_version, path)
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE callbacks (number INTEGER)")  # in the way of the new one
    other.close()
    with pytest.raises(MeshError):
        await opened(path)
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (1,)
        assert "callback" not in {row[1] for row in other.execute("PRAGMA table_info(items)")}
        other.execute("DROP TABLE callbacks")
    other.close()
    journal = await opened(path)
    assert journal.items == 2
    await asyncio.to_thread(journal.close)
