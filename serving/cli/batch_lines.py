"""Lines of batches on this side: an input is checked before it is sent, and what an ended batch left is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from serving.batch.checking import ENDPOINTS, InputReport, check_input
from serving.errors import DataLoss, InvalidArgument

_SHOWN: Final = 10  # wrong lines
_FIRST_LINE: Final = 8 << 20  # bytes
_REFUSED: Final = 400
_FAULTS: Final = 500
_NOT_REFUSED: Final = (408, 429, 499)  # which say nothing about the request itself


def checked_input(path: Path, endpoint: str) -> tuple[str, InputReport]:
    """The endpoint (of the first line where none is given) and what the file asks.

    Raises `InvalidArgument` that names the wrong lines, as a runner would.
    """
    try:
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(_FIRST_LINE), b"")
            found = endpoint or _endpoint_of(next((line for line in lines if line.strip()), b""))
            file.seek(0)
            report = check_input(file, found)
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror or error}") from error
    if report.fault_count:
        raise InvalidArgument(_told(path, report))
    return found, report


def _endpoint_of(line: bytes) -> str:
    """That of the line's request; of what is none any one, as the check says what is wrong with it."""
    try:
        url = json.loads(line)["url"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ENDPOINTS[0]
    return url if url in ENDPOINTS else ENDPOINTS[0]


def _told(path: Path, report: InputReport) -> str:
    lines = [f"{path}{f':{one.line}' if one.line else ''}: {one.message}" for one in report.faults[:_SHOWN]]
    more = report.fault_count - len(lines)
    return "\n  ".join([f"nothing was sent: {path} is wrong", *lines, *([f"and {more} more"] if more else [])])


@dataclass(frozen=True, slots=True)
class Left:
    """What an ended batch left: `lines` that are to be asked again, of `total`. `refused` were left out."""

    lines: int
    refused: int
    total: int


def write_rest(source: Path, outcomes: tuple[Path, ...], target: Path, *, also_refused: bool) -> Left:
    """Writes the lines of the input `source` that have no answer in `outcomes`, in their order.

    A line that a model refused (a status from 400 on that is about the request) has its answer, unless `also_refused`.
    Raises `DataLoss` for lines that are none.
    """
    answered: set[str] = set()
    refused: set[str] = set()
    for path in outcomes:
        for outcome in _objects(path):
            status = _status_of(outcome)
            if 0 < status < _REFUSED:
                answered.add(str(outcome["custom_id"]))
            elif _REFUSED <= status < _FAULTS and status not in _NOT_REFUSED:
                refused.add(str(outcome["custom_id"]))
    settled = answered if also_refused else answered | refused
    total = left = 0
    with source.open("rb") as file, target.open("wb") as rest:
        for request, line in _lines(source, file):
            total += 1
            if request["custom_id"] not in settled:
                left += 1
                rest.write(line.rstrip(b"\r\n") + b"\n")
    return Left(left, 0 if also_refused else len(refused - answered), total)


def _status_of(outcome: dict[str, Any]) -> int:
    """0: nobody answered."""
    response = outcome.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    return status if isinstance(status, int) else 0


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for found, _ in _lines(path, file):
            yield found


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[dict[str, Any], bytes]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or "custom_id" not in found:
            raise DataLoss(f"{path.name}:{number} is no line of a batch")
        yield found, line
