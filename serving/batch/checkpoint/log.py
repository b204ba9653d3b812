"""The log of a job: entries with consecutive numbers, each created exclusively, so that one driver at a time goes on.

Who wants to change anything makes entry n + 1 after having read up to n. Of two that try, one is told that the number
is taken: it has been overtaken, and stops. What is not whole (a torn file) is void: nobody was told that it is there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serving.batch.checkpoint.files import TEMPORARY, Files
from serving.errors import Conflict, DataLoss
from serving.observe import get_logger

_LOG: Final = get_logger(__name__)
_FOLDER: Final = "log"
_NAME: Final = re.compile(r"([0-9]{12})\.json")
_NAME_OR_TEMPORARY: Final = re.compile(rf"(?:{re.escape(TEMPORARY)})?([0-9]{{12}})\.json(?:-[0-9a-f]+)?")
_READS: Final = 5  # of a log that somebody shortens meanwhile
JsonObject = Mapping[str, Any]


class Overtaken(Conflict):
    """Another driver has started on the job's folder since."""


@dataclass(frozen=True)
class Entry:
    """`value` is None where the file is torn."""

    number: int
    value: JsonObject | None


def encoded(value: JsonObject) -> bytes:
    text = json.dumps(value, sort_keys=True)
    return json.dumps({"entry": value, "sha256": _digest(text)}, sort_keys=True).encode() + b"\n"


def decoded(data: bytes) -> JsonObject | None:
    """None: not what somebody wrote whole."""
    try:
        record = json.loads(data)
        value = record["entry"]
        whole = isinstance(value, dict) and record["sha256"] == _digest(json.dumps(value, sort_keys=True))
    except (ValueError, KeyError, TypeError):
        return None
    return value if whole else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Log:
    """`read` first, then `append`; after `Overtaken` nothing more."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._last = 0
        files.make_folder(_FOLDER)

    @property
    def last(self) -> int:
        return self._last

    def read(self) -> list[Entry]:
        """From the newest summary on, or from the beginning. DataLoss: entries are missing."""
        for _ in range(_READS):
            try:
                entries = self._read_once()
            except FileNotFoundError:
                continue  # a driver has summed up and removed the older ones: list again
            self._last = entries[-1].number if entries else 0
            return entries
        raise Conflict(f"{self._files.path(_FOLDER)}: another driver changes this job's log all the time")

    def _read_once(self) -> list[Entry]:
        entries: list[Entry] = []
        for number in reversed(self._numbers()):
            if entries and number != entries[-1].number - 1:
                raise self._gap(number + 1, entries[-1].number - 1)
            value = decoded(self._files.read(_name(number)))
            if value is None:
                _LOG.warning("a torn entry of a job's log counts as void", folder=str(self._files.root), entry=number)
            entries.append(Entry(number, value))
            if value is not None and value.get("summary"):
                break
        else:
            if entries and entries[-1].number != 1:
                raise self._gap(1, entries[-1].number - 1)
        return entries[::-1]

    def append(self, value: JsonObject) -> int:
        """Its number. Overtaken: another driver goes on from here, with this entry or without it."""
        number = self._last + 1
        # The number may be free because a newer driver summed up and removed it: then there are higher ones.
        if not self._files.create(_name(number), encoded(value)) or self._numbers()[-1] != number:
            raise Overtaken(
                f"{self._files.root}: another driver works on this job now (entry {number} of its log);"
                " this one changes nothing any more"
            )
        self._last = number
        return number

    def shorten(self, first: int) -> None:
        """Removes what lies before entry `first`, a summary, and what broken-off writes left behind."""
        for name in self._files.names(_FOLDER):
            match = _NAME_OR_TEMPORARY.fullmatch(name)
            if match and int(match[1]) < first:
                self._files.remove(f"{_FOLDER}/{name}")

    def still_ours(self) -> None:
        """Overtaken where there are entries after the last one that was read or made here."""
        if self._numbers()[-1:] != [self._last]:
            raise Overtaken(
                f"{self._files.root}: another driver works on this job now; this one changes nothing any more"
            )

    def _numbers(self) -> list[int]:
        return [int(match[1]) for match in map(_NAME.fullmatch, self._files.names(_FOLDER)) if match]

    def _gap(self, first: int, last: int) -> DataLoss:
        return DataLoss(
            f"{self._files.path(_FOLDER)}: the entries {first} to {last} are missing, so what is finished is not known;"
            " start the job in a new folder"
        )


def _name(number: int) -> str:
    return f"{_FOLDER}/{number:012d}.json"
