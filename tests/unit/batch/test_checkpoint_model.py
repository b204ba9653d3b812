"""The checkpoint against a model: crashes between any two changes of files, drivers that overtake each other."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.batch.checkpoint import Checkpoint, Overtaken
from serving.batch.checkpoint.log import decoded
from serving.batch.sinks.lines import JsonlFormat
from serving.errors import DataLoss
from tests.support.batch_parts import BreakingFiles, Crash, rows_of, written

_FORMAT = JsonlFormat()
_ROWS = 12
_DESCRIPTION = {"source": "model"}


class Driver:
    def __init__(self, files: BreakingFiles) -> None:
        self.files = files
        self.checkpoint = Checkpoint(files, _DESCRIPTION, _FORMAT)
        self.pending: set[int] = set()


class JobFolder(RuleBasedStateMachine):
    """`sure` rows were acknowledged in the batch; `maybe` were in a step that a crash cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.sure: set[int] = set()
        self.maybe: set[int] = set()
        self.batch = 0  # published for sure
        self.job = ""
        self.drivers: list[Driver] = []
        self.owner: Driver | None = None  # who started last
        self.shaken = False  # a start since then was cut off: it may have overtaken the owner, or not

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(crash_at=st.integers(0, 25))
    def start(self, crash_at: int) -> None:
        files = BreakingFiles(self.folder, crash_at=crash_at)
        try:
            driver = Driver(files)
        except Crash:
            self.shaken = True
            return
        files.crash_at = 0
        self.drivers.append(driver)
        self.owner, self.shaken = driver, False
        self._agree(driver.checkpoint)

    def _agree(self, checkpoint: Checkpoint) -> None:
        """What a driver finds when it starts."""
        self.job = self.job or checkpoint.job
        assert checkpoint.job == self.job
        state = checkpoint.state
        if state.batches > self.batch:  # a crash cut off the answer, not the step
            self.batch, self.sure, self.maybe = state.batches, set(), set()
        assert state.batches == self.batch
        found = [row["n"] for row in rows_of(checkpoint._files, checkpoint)] if state.batch is not None else []
        assert len(found) == len(set(found)), "a row is doubled"
        assert self.sure <= set(found), "a finished row is gone"
        assert set(found) <= self.sure | self.maybe, "a row is there that nobody committed"
        self.sure, self.maybe = set(found), set()

    def _do(self, driver: Driver, step: object, crash_at: int) -> bool:
        """True: it was done. A driver that crashed, or was overtaken, is gone."""
        driver.files.crash_at = crash_at
        try:
            step()  # type: ignore[operator]
        except Crash:
            self._gone(driver)
            return False
        except Overtaken:
            assert driver is not self.owner or self.shaken, "the newest driver was told that it is overtaken"
            self._gone(driver)
            return False
        assert driver is self.owner, "an overtaken driver has changed something"
        driver.files.crash_at = 0
        return True

    def _gone(self, driver: Driver) -> None:
        self.drivers.remove(driver)
        if driver is self.owner:
            self.owner = None

    @precondition(lambda self: self.drivers)
    @rule(which=st.integers(0, 3), crash_at=st.integers(0, 8))
    def begin(self, which: int, crash_at: int) -> None:
        driver = self.drivers[which % len(self.drivers)]
        if driver.checkpoint.state.batch is None:
            self._do(driver, lambda: driver.checkpoint.begin({"rows": _ROWS}), crash_at)

    @precondition(lambda self: self.drivers)
    @rule(which=st.integers(0, 3), rows=st.lists(st.integers(0, _ROWS - 1), min_size=1, max_size=5))
    def work(self, which: int, rows: list[int]) -> None:
        """A worker writes a part, some rows of which others may have written too; the driver takes it."""
        driver = self.drivers[which % len(self.drivers)]
        batch = driver.checkpoint.state.batch
        if batch is None or batch.finished:
            return
        try:
            part = written(driver.files, driver.checkpoint, [{"n": row} for row in rows], _FORMAT)
            driver.checkpoint.take(part)
        except (OSError, DataLoss):
            assert driver is not self.owner  # the batch's folder is gone: it was published meanwhile
            self._gone(driver)
            return
        driver.pending.update(rows)

    @precondition(lambda self: self.drivers)
    @rule(which=st.integers(0, 3), crash_at=st.integers(0, 8))
    def commit(self, which: int, crash_at: int) -> None:
        driver = self.drivers[which % len(self.drivers)]
        pending = driver.pending
        if not pending:
            return
        if driver is self.owner:
            self.maybe |= pending
        if self._do(driver, driver.checkpoint.commit, crash_at):
            self.sure |= pending
            driver.pending = set()

    @precondition(lambda self: self.drivers)
    @rule(which=st.integers(0, 3), crash_at=st.integers(0, 12))
    def publish(self, which: int, crash_at: int) -> None:
        driver = self.drivers[which % len(self.drivers)]
        checkpoint = driver.checkpoint
        batch = checkpoint.state.batch
        if batch is None or driver.pending:
            return
        if not batch.finished and not self._do(driver, checkpoint.finish, 0):
            return
        if self._do(driver, lambda: checkpoint.published({"read": batch.number}, ["out"]), crash_at):
            self.batch, self.sure, self.maybe = self.batch + 1, set(), set()

    @precondition(lambda self: self.drivers)
    @rule(data=st.data())
    def tear(self, data: st.DataObject) -> None:
        """The newest entry is cut: what it said was never acknowledged as far as the next driver can tell."""
        names = sorted((self.folder / "log").glob("[0-9]*.json"))
        last = names[-1]
        value = decoded(last.read_bytes())
        if value is None or value["kind"] != "start":
            return  # of acknowledged entries only the disk can take something away
        whole = last.read_bytes()
        last.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])

    @invariant()
    def committed_parts_are_there(self) -> None:
        driver = self.owner
        if driver is None or driver.checkpoint.state.batch is None:
            return
        names = {path.stem for path in (self.folder / "parts").rglob("*") if path.is_file()}
        for part in driver.checkpoint.state.batch.parts:
            assert part.name.rpartition("/")[2] in names


TestJobFolder = JobFolder.TestCase
TestJobFolder.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
