"""The folder of journals: who serves which, and what becomes of those that cannot be opened."""

from __future__ import annotations

import asyncio
import fcntl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.broker import home as home_module
from serving.broker.home import Home
from serving.broker.journal import Journal
from serving.broker.settings import BrokerSettings
from serving.broker.shelf import DiskPlace, JournalLock, Place
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


class Gate:
    """At the end of a step of a thread."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def after(self, step: Callable[..., Any], stops: Callable[[Any], bool]) -> Callable[..., Any]:
        """The step, which stops here where what it gave is like that."""

        def stepped(*arguments: Any, **named: Any) -> Any:
            given = step(*arguments, **named)
            if stops(given):
                self.reached.set()
                assert self.open.wait(60)
            return given

        return stepped


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


async def leave_one(folder: Path) -> None:
    """A journal that nobody serves any more, beside that of another home."""
    other = Home(settings(folder))
    await other.start()
    assert len(other.shards) == 1
    await other.close()


@pytest.mark.parametrize("step", ["take", "open", "close"])
async def test_a_close_waits_for_the_step_of_a_thread_and_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, step: str
) -> None:
    """Of a journal that is taken, opened, or closed again as it is empty."""
    monkeypatch.setattr(home_module, "_ADOPT_S", 0.05)
    home = Home(settings(tmp_path))
    await home.start()
    places: list[DiskPlace] = []
    journals: list[Journal] = []
    real = home._shelf.place

    def place(name: str) -> Place:
        made = real(name)
        opens = made.open

        def opened(loop: asyncio.AbstractEventLoop) -> Journal:
            journal = opens(loop)
            journals.append(journal)
            if step == "close":
                monkeypatch.setattr(journal, "close", gate.after(journal.close, lambda _: True))
            return journal

        monkeypatch.setattr(made, "open", opened)
        if step != "close":
            monkeypatch.setattr(made, step, gate.after(getattr(made, step), lambda given: given is not False))
        assert isinstance(made, DiskPlace)
        places.append(made)
        return made

    monkeypatch.setattr(home._shelf, "place", place)
    await leave_one(tmp_path)
    await eventually_async(gate.reached.is_set, what=f"the thread's step {step}")
    closing = asyncio.create_task(home.close())
    done, _ = await asyncio.wait([closing], timeout=0.2)
    gate.open.set()
    await closing
    assert not done, "it waits for the thread"
    assert not home.shards
    assert not any(thread.is_alive() for journal in journals for thread in journal._threads)
    assert not any(made._lock.held for made in places)


async def test_leases_and_deadlines_go_on_while_a_journal_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr(home_module, "_ADOPT_S", 0.05)
    home = Home(settings(tmp_path))
    await home.start()
    try:
        names = gate.after(home._shelf.names, lambda _: True)
        monkeypatch.setattr(home._shelf, "names", names)
        await eventually_async(gate.reached.is_set, what="the shelf is asked")
        (upkeep,) = home._upkeep.values()
        ticks: list[None] = []
        monkeypatch.setattr(type(upkeep), "tick", lambda _: ticks.append(None))
        await eventually_async(lambda: len(ticks) > 2, what="ticks go on")
        assert not gate.open.is_set()
    finally:
        gate.open.set()
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
