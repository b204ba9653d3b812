"""What a row is called in every run: 16 bytes, from a column or from where the row stands and what it says. Pure."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from serving.errors import DataLoss, InvalidArgument

IDENTIFIER: Final = "__row__"  # the column that carries it through a pipeline, as 32 hexadecimal digits
WIDTH: Final = 16  # bytes: among 10^12 rows two alike are as likely as 1 in 10^14
Identifiers = npt.NDArray[np.bytes_]  # of dtype S16; what numpy strips of it, zeros at the end, compares as equal
_DTYPE: Final = np.dtype(f"S{WIDTH}")
_RUNS_GROW: Final = 2  # a run is merged with the next one unless that one is so many times as long


def json_text(value: object) -> str:
    """One text for equal values, whatever order their keys came in."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=as_json)


def as_json(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


def identifier_of_value(value: object) -> str:
    """The identifier of a row that the user named by a column's value."""
    if value is None:
        raise InvalidArgument("a row has no value in the identifier's column: every row needs one, unlike all others")
    return _digest(b"value", json_text(value).encode("utf-8", "surrogatepass"))


def identifier_of_place(file: str, position: int, content: bytes) -> str:
    """The identifier of a row without one: its file's name below the source, where it begins there, what it says."""
    return _digest(b"place", file.encode("utf-8", "surrogateescape"), str(position).encode(), content)


def identifiers_of(
    rows: Sequence[Mapping[str, Any]], column: str, file: str, positions: Iterable[int], contents: Iterable[bytes]
) -> list[str]:
    """Of rows of one file: by `column`, or where that is empty, by place and content."""
    if not column:
        return [identifier_of_place(file, at, content) for at, content in zip(positions, contents, strict=True)]
    try:
        return [identifier_of_value(row[column]) for row in rows]
    except KeyError:
        raise InvalidArgument(
            f"{file}: a row has no column `{column}`, which the source names as the identifier's"
        ) from None


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=WIDTH)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def packed(texts: Iterable[str]) -> bytes:
    """As files of identifiers hold them, 16 bytes each."""
    try:
        data = [bytes.fromhex(text) for text in texts]
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"the column `{IDENTIFIER}` holds something else than the source put there: every step must keep it"
        ) from error
    if any(len(one) != WIDTH for one in data):
        raise InvalidArgument(f"the column `{IDENTIFIER}` must hold {WIDTH * 2} hexadecimal digits for each row")
    return b"".join(data)


def unpacked(data: bytes, what: str) -> Identifiers:
    """`what` names the file that they are from, for errors."""
    if len(data) % WIDTH:
        raise DataLoss(f"{what} has {len(data)} bytes, which is no multiple of {WIDTH}: it is damaged")
    return np.frombuffer(data, dtype=_DTYPE)


class IdentifierSet:
    """Those that are finished: sorted runs of 16 bytes a row, of which there are about as many as log2 of the rows."""

    def __init__(self, runs: Iterable[Identifiers] = ()) -> None:
        self._runs: list[Identifiers] = []
        for run in runs:
            self.add(run)

    @classmethod
    def of_sorted(cls, run: Identifiers) -> IdentifierSet:
        """Of one run that is sorted already, without a copy of it."""
        made = cls()
        made._runs = [run]
        return made

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    @property
    def nbytes(self) -> int:
        return sum(run.nbytes for run in self._runs)

    def contains(self, wanted: Identifiers) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(wanted), dtype=np.bool_)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, wanted), len(run) - 1)
            found |= run[at] == wanted
        return found

    def add(self, new: Identifiers) -> None:
        """Adds those of `new`; the caller has made sure that none is here yet."""
        if not len(new):
            return
        self._runs.append(np.sort(new))
        while len(self._runs) > 1 and len(self._runs[-2]) < _RUNS_GROW * len(self._runs[-1]):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(np.sort(np.concatenate([before, last]), kind="stable"))

    def sorted(self) -> Identifiers:
        """All of them, as one sorted run; takes their memory a second time."""
        if not self._runs:
            return np.empty(0, dtype=_DTYPE)
        return np.sort(np.concatenate(self._runs), kind="stable")


def first_ones(ids: Identifiers, finished: IdentifierSet) -> npt.NDArray[np.bool_]:
    """Which rows count: not finished before, and the first of their identifier here."""
    fresh = ~finished.contains(ids)
    once = np.zeros(len(ids), dtype=np.bool_)
    once[np.unique(ids, return_index=True)[1]] = True
    return fresh & once


def batches_of(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most `size`."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
