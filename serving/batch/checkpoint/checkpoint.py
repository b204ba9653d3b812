"""A job's folder in the hands of one driver: what is finished, and each further step, made in one entry of its log.

job.json              what the job is; made once
log/<n>.json          its entries (log.py), from the newest summary on
parts/<batch>/        what workers wrote: <epoch>-<id>.<suffix> and, beside it, the identifiers of its rows
finished/<epoch>-sorted.ids  identifiers that were finished when the driver started, sorted, for workers to look up
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Final

import numpy as np

from serving.batch.checkpoint.files import Files
from serving.batch.checkpoint.identifiers import Identifiers, IdentifierSet, first_ones, unpacked
from serving.batch.checkpoint.log import JsonObject, Log, decoded, encoded
from serving.batch.checkpoint.parts import IDS_SUFFIX, Counts, Part, PartFormat, epoch_of, ids_bytes, parts_folder
from serving.batch.checkpoint.state import Batch, State, folded
from serving.errors import DataLoss, FailedPrecondition, Internal
from serving.observe import get_logger

_LOG: Final = get_logger(__name__)
_JOB: Final = "job.json"


class Checkpoint:
    """Opening it overtakes whoever had it. Methods may raise `Overtaken` (stop then) and `DiskFull` (try again)."""

    def __init__(self, files: Files, description: JsonObject, part_format: PartFormat) -> None:
        """`description` says what is read and where it goes: FailedPrecondition where the folder is another job's."""
        self._files = files
        self._format = part_format
        files.make_folder("parts")
        files.make_folder("finished")
        self.job = self._identify(description)
        self._log = Log(files)
        self.state: State = folded(self._log.read())
        self.epoch = self._log.append({"kind": "start", "driver": uuid.uuid4().hex})
        self._pending: list[Part] = []
        self.duplicates = 0
        self._finished = IdentifierSet()
        if self.state.batch is not None:
            self._take_up(self.state.batch)
        self._clean()
        self.finished_path = ""  # of the file with the identifiers that were finished at the start; empty: none were
        self._write_finished()

    @staticmethod
    def exists(files: Files) -> bool:
        """Whether a job was started in this folder before."""
        return _JOB in files.names(".")

    @property
    def pending(self) -> Counts:
        """Of parts that were taken and not committed yet."""
        total = Counts()
        for part in self._pending:
            total += part.counts
        return total

    def begin(self, plan: JsonObject) -> None:
        """Starts the next batch."""
        number = self.state.batches + 1
        self._append({"kind": "batch", "number": number, "plan": plan})
        self._begin_folder(number)

    def take(self, part: Part) -> Part:
        """A part that a worker told of: committed with the next `commit`, without rows that are finished already."""
        ids = self._ids(part)
        counts = first_ones(ids, self._finished)
        if not counts.all():
            skip = np.flatnonzero(~counts).tolist()
            self.duplicates += len(skip)
            _LOG.info("rows came a second time: the first ones count", part=part.name, rows=len(skip))
            part = part.without(skip, self._format, self._files)
        self._finished.add(ids[counts])
        self._pending.append(part)
        return part

    def commit(self) -> None:
        """From here on all parts taken are finished, whatever dies."""
        if not self._pending:
            return
        batch = self._batch()
        self._append({"kind": "commit", "batch": batch.number, "parts": [part.to_json() for part in self._pending]})
        self._pending = []

    def finish(self) -> None:
        """The batch has all its rows: it only remains to be published."""
        if self._pending:
            raise Internal("a batch was finished with parts that are not committed")
        self._append({"kind": "finished", "batch": self._batch().number})

    def still_ours(self) -> None:
        """Overtaken where another driver has started."""
        self._log.still_ours()

    def published(self, position: JsonObject, outputs: Sequence[str]) -> None:
        """The batch's output is where it belongs. Its parts and older entries are removed."""
        batch = self._batch()
        if not batch.finished:
            raise Internal(f"batch {batch.number} was published before it was finished")
        state = self.state
        summed = State(position, batch.number, state.published + batch.counts, list(outputs))
        self._sum_up(summed)
        self._finished = IdentifierSet()
        self.finished_path = ""
        self._clean()

    def end(self) -> None:
        """The source has nothing more: further starts find the job done."""
        state = self.state
        if state.batch is not None:
            raise Internal(f"a job was ended within batch {state.batch.number}")
        self._sum_up(State(state.position, state.batches, state.published, state.outputs, ended=True))

    def _sum_up(self, state: State) -> None:
        self._append(state.summary())
        self._log.shorten(self._log.last)

    def _append(self, value: JsonObject) -> None:
        stamped = {**value, "epoch": self.epoch}
        self._log.append(stamped)
        self.state.apply(stamped)

    def _batch(self) -> Batch:
        if self.state.batch is None:
            raise Internal("there is no batch under way")
        return self.state.batch

    def _identify(self, description: JsonObject) -> str:
        """The job's identity: as it was made at its first start."""
        wanted = json.loads(json.dumps(description))
        self._files.create(_JOB, encoded({"job": uuid.uuid4().hex, "description": wanted}))
        record = decoded(self._files.read(_JOB))
        if record is None:
            raise DataLoss(f"{self._files.path(_JOB)} is damaged: start the job in a new folder")
        if record["description"] != wanted:
            raise FailedPrecondition(
                f"{self._files.root} is the folder of another job:"
                f" that one {_difference(record['description'], wanted)}; use a folder of its own for each job"
            )
        return str(record["job"])

    def _take_up(self, batch: Batch) -> None:
        """What an earlier driver committed. Parts that are gone count as never made, for good."""
        self._begin_folder(batch.number)
        lost: list[str] = []
        runs: list[Identifiers] = []
        for part in batch.parts:
            ids = self._whole(part)
            if ids is None:
                lost.append(part.name)
                continue
            kept = np.ones(part.rows, dtype=np.bool_)
            kept[list(part.skip)] = False
            runs.append(ids[kept])
        if lost:
            _LOG.error("committed parts are gone or cut: their rows are computed again", parts=len(lost), first=lost[0])
            self._append({"kind": "lost", "batch": batch.number, "parts": lost})
        if runs:
            self._finished.add(np.concatenate(runs))

    def _whole(self, part: Part) -> Identifiers | None:
        try:
            data = self._files.path(part.name + self._format.suffix)
            if data.stat().st_size != part.nbytes:
                return None
            ids = self._files.read(part.name + IDS_SUFFIX)
        except FileNotFoundError:
            return None
        return unpacked(ids, part.name) if len(ids) == ids_bytes(part) else None

    def _ids(self, part: Part) -> Identifiers:
        ids = self._whole(part)
        if ids is None:
            raise DataLoss(
                f"{self._files.path(part.name)}: a worker told of this part, but it is not here as it wrote it:"
                " the job's folder must be one that driver and workers share, and nobody else may remove files there"
            )
        return ids

    def _begin_folder(self, batch: int) -> None:
        self._files.make_folder(parts_folder(batch))

    def _clean(self) -> None:
        """Removes what no entry names. What a newer driver made, or makes meanwhile, is of a later epoch and stays."""
        state = self.state
        named = {part.name.rpartition("/")[2] for part in state.batch.parts} if state.batch is not None else set()
        for folder in self._files.names("parts"):
            for name in self._files.names(f"parts/{folder}"):
                if epoch_of(name) <= self.epoch and name.partition(".")[0] not in named:
                    self._files.remove(f"parts/{folder}/{name}")
            if folder.isdecimal() and int(folder) <= state.batches:
                self._remove_folder(f"parts/{folder}")
        for name in self._files.names("finished"):
            if epoch_of(name) < self.epoch:
                self._files.remove(f"finished/{name}")

    def _remove_folder(self, name: str) -> None:
        try:
            self._files.remove(name)
        except OSError as error:  # a worker of an older driver has just put something there: the next start removes it
            _LOG.info("a folder of parts is not empty yet", folder=name, detail=str(error))

    def _write_finished(self) -> None:
        if len(self._finished):
            name = f"finished/{self.epoch}-sorted.ids"
            self._files.write_bytes(name, self._finished.sorted().tobytes())
            self.finished_path = str(self._files.path(name))


def _difference(theirs: JsonObject, ours: JsonObject) -> str:
    for key in sorted({*theirs, *ours}):
        if theirs.get(key) != ours.get(key):
            return f"has {key} {theirs.get(key)!r}, this one {ours.get(key)!r}"
    return "is described otherwise"
