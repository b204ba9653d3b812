"""The folder of journals: who serves which, and what becomes of those that cannot be opened."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path

import pytest

from serving.broker import home as home_module
from serving.broker.home import Home
from serving.broker.settings import BrokerSettings
from serving.broker.shelf import JournalLock
from serving.errors import FailedPrecondition
from tests.support.waiting import eventually_async


def settings(folder: Path) -> BrokerSettings:
    return BrokerSettings(folder=folder, deployments=("it",), sync="normal")


async def test_a_journal_that_cannot_be_opened_is_left_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home_module, "_AGAIN_S", 0.1)
    first = Home(settings(tmp_path))
    await first.start()
    (name,) = first.shards
    await first.close()
    whole = (tmp_path / f"{name}.sqlite").read_bytes()
    junk = b"not a journal" * 1000
    (tmp_path / f"{name}.sqlite").write_bytes(junk)

    second = Home(settings(tmp_path))
    await second.start()
    try:
        assert name in second.refused
        assert (tmp_path / f"{name}.sqlite").read_bytes() == junk
        assert len(second.shards) == 1, "it serves another one meanwhile"
        (tmp_path / f"{name}.sqlite").write_bytes(whole)
        await eventually_async(lambda: name in second.shards, what="the journal is served when it is whole again")
        assert second.refused == {}
    finally:
        await second.close()


async def test_a_fault_of_the_upkeep_does_not_end_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = Home(settings(tmp_path))
    await home.start()
    try:
        (upkeep,) = home._upkeep.values()
        faults = [ValueError("a fault")]
        ticks: list[None] = []
        tick = upkeep.tick

        class Faulty:
            def tick(self) -> None:
                if faults:
                    raise faults.pop()
                ticks.append(None)
                tick()

        home._upkeep[next(iter(home._upkeep))] = Faulty()  # type: ignore[assignment]
        await eventually_async(lambda: len(ticks) > 2, what="it goes on")
        assert "upkeep of the journals failed" in caplog.text
    finally:
        await home.close()


def test_a_lock_is_held_by_one_and_goes_with_its_journal(tmp_path: Path) -> None:
    journal = tmp_path / "j1.sqlite"
    mine, other = JournalLock(journal), JournalLock(journal)
    assert mine.take()
    assert not other.take()
    mine.release()
    assert other.take()
    other.release(remove=True)
    assert not journal.with_suffix(".lock").exists()
    assert mine.take()
    mine.release()


def test_who_looks_takes_no_lock(tmp_path: Path) -> None:
    journal = tmp_path / "j1.sqlite"
    mine, looking = JournalLock(journal), JournalLock(journal)
    assert not looking.taken
    assert not journal.with_suffix(".lock").exists()
    assert mine.take()
    assert looking.taken
    mine.release()
    assert not looking.taken
    assert mine.take()
    mine.release()


async def test_a_journal_that_somebody_looks_at_is_waited_for(tmp_path: Path) -> None:
    first = Home(settings(tmp_path))
    await first.start()
    (name,) = first.shards
    await first.close()
    second = Home(settings(tmp_path))
    with (tmp_path / f"{name}.lock").open() as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        asyncio.get_running_loop().call_later(0.01, fcntl.flock, looked_at, fcntl.LOCK_UN)
        await second.start()
    try:
        assert set(second.shards) == {name}
    finally:
        await second.close()


async def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="journals cannot be kept in"):
        await Home(settings(tmp_path / "file" / "folder")).start()
