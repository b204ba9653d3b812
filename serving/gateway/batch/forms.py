"""An upload's form, read as it comes: its fields, and its file straight to the store's disk."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from serving.batch.store.content import ContentStore, StorageFull, Writing
from serving.gateway.batch.multipart import MultipartReader, PartBegins, PartData, PartEnds, boundary_of
from serving.openai.errors import BodyTooLarge, InvalidRequest
from serving.timeouts import unbroken
from serving.wire import Wire

FILE: Final = "file"
PURPOSE: Final = "purpose"
ANCHOR: Final = "expires_after[anchor]"
SECONDS: Final = "expires_after[seconds]"
LEAST_EXPIRY_S: Final = 3600
MOST_EXPIRY_S: Final = 30 * 24 * 3600
TAKEN_PURPOSES: Final = ("batch",)
_FIELDS: Final = (PURPOSE, ANCHOR, SECONDS)
_MAX_FIELD: Final = 1024  # bytes
_MAX_NAME: Final = 255  # characters of a file's name
_FORM_BYTES: Final = 512 << 10  # of all that is no content
_WRITTEN_AT_ONCE: Final = 1 << 20  # bytes: each write is a turn of a thread
_FAIR_S: Final = 60.0  # after that an upload must have come at that rate: it holds a place among those at the same time
_LEAST_RATE: Final = 16 << 10  # bytes per second
_NUMBER: Final = re.compile(r"[0-9]{1,9}")


class UploadTooSlow(InvalidRequest):
    """It comes, but would go on for days."""

    http_status = 408

    def __init__(self) -> None:
        super().__init__(f"the file came with less than {_LEAST_RATE} bytes per second", error_code="request_timeout")


@dataclass(slots=True)
class Form:
    """What was sent. `writing` is its owner's to keep or to discard."""

    writing: Writing
    filename: str = ""
    fields: dict[str, str] = field(default_factory=dict)

    def purpose(self) -> str:
        """Raises `InvalidRequest`."""
        purpose = self.fields.get(PURPOSE)
        if purpose is None:
            raise InvalidRequest("`purpose` is missing", param=PURPOSE, error_code="missing_required_parameter")
        if purpose not in TAKEN_PURPOSES:
            raise InvalidRequest(
                f"`purpose`: {purpose[:60]!r} is not supported; files are taken for {', '.join(TAKEN_PURPOSES)}",
                param=PURPOSE,
                error_code="invalid_value",
            )
        return purpose

    def expires_after_s(self, default: int) -> int:
        """Raises `InvalidRequest`."""
        anchor, text = self.fields.get(ANCHOR), self.fields.get(SECONDS)
        if anchor is None and text is None:
            return default
        if anchor != "created_at":
            raise InvalidRequest(
                f"`{ANCHOR}`: created_at is wanted, found {anchor!r}", param=ANCHOR, error_code="invalid_value"
            )
        seconds = int(text) if text is not None and _NUMBER.fullmatch(text) else -1
        if not LEAST_EXPIRY_S <= seconds <= MOST_EXPIRY_S:
            raise InvalidRequest(
                f"`{SECONDS}`: {LEAST_EXPIRY_S} to {MOST_EXPIRY_S} is wanted, found {text!r}",
                param=SECONDS,
                error_code="invalid_value",
            )
        return seconds


async def read_form(
    wire: Wire, content: ContentStore, limit_bytes: int, *, monotonic: Callable[[], float] = time.monotonic
) -> Form:
    """Reads the body to its end; its file has at most `limit_bytes`.

    Raises `InvalidRequest`, `BodyTooLarge`, `BodyTooSlow`, `UploadTooSlow`, `ClientGone`, `StorageFull`; then nothing
    is left on disk.
    """
    reader = MultipartReader(boundary_of(wire.header(b"content-type")))
    declared = wire.header(b"content-length")
    if declared.isdigit():
        size = int(declared[:20])
        if size > limit_bytes + _FORM_BYTES:
            raise BodyTooLarge(limit_bytes)
        if size > await asyncio.to_thread(content.free_bytes):
            raise StorageFull(f"the file store has no room for {size} bytes")
    writing = await unbroken(asyncio.to_thread(content.begin), _discard)
    filling, began, received = _Filling(Form(writing), limit_bytes), monotonic(), 0
    try:
        async for piece in wire.pieces(limit_bytes + _FORM_BYTES):
            received += len(piece)
            took_s = monotonic() - began
            if took_s > _FAIR_S and received < took_s * _LEAST_RATE:
                raise UploadTooSlow
            for event in reader.feed(piece):
                filling.take(event)
            await filling.write(_WRITTEN_AT_ONCE)
        reader.finish()
        filling.finish()
        await filling.write(1)
    except BaseException:
        await _discard(writing)
        raise
    return filling.form


async def _discard(writing: Writing) -> None:
    await unbroken(asyncio.to_thread(writing.discard))


class _Filling:
    """A form that is being read."""

    def __init__(self, form: Form, limit_bytes: int) -> None:
        self.form = form
        self._limit_bytes = limit_bytes
        self._name = ""  # of the part that is being read
        self._value = bytearray()  # of a field
        self._unwritten = bytearray()  # of the file
        self._file_bytes = 0
        self._has_file = False

    def take(self, event: PartBegins | PartData | PartEnds) -> None:
        """Raises `InvalidRequest`, `BodyTooLarge`."""
        if isinstance(event, PartBegins):
            self._begin(event)
        elif isinstance(event, PartData):
            self._more(event.data)
        elif self._name != FILE:
            self.form.fields[self._name] = self._value.decode("utf-8", "replace")

    def _begin(self, part: PartBegins) -> None:
        if part.name not in (FILE, *_FIELDS):
            name = part.name[:60]
            raise InvalidRequest(f"there is no field `{name}` here", param=name, error_code="unknown_parameter")
        if part.name in self.form.fields or (part.name == FILE and self._has_file):
            raise InvalidRequest(f"`{part.name}` is there twice", param=part.name, error_code="invalid_value")
        self._name = part.name
        self._value.clear()
        if part.name != FILE:
            return
        self._has_file = True
        self.form.filename = (part.filename or "")[:_MAX_NAME]
        if not self.form.filename:
            raise InvalidRequest("`file` is no file: its part has no filename", param=FILE, error_code="invalid_type")

    def _more(self, data: bytes) -> None:
        if self._name != FILE:
            self._value += data
            if len(self._value) > _MAX_FIELD:
                raise InvalidRequest(
                    f"`{self._name}` has more than {_MAX_FIELD} bytes", param=self._name, error_code="invalid_value"
                )
            return
        self._unwritten += data
        self._file_bytes += len(data)
        if self._file_bytes > self._limit_bytes:
            raise BodyTooLarge(self._limit_bytes)

    async def write(self, at_least: int) -> None:
        """What of the file is not on disk, where it is that much. Raises `StorageFull`."""
        if len(self._unwritten) >= at_least:
            data, self._unwritten = bytes(self._unwritten), bytearray()
            await unbroken(asyncio.to_thread(self.form.writing.write, data))

    def finish(self) -> None:
        """Raises `InvalidRequest`."""
        if not self._has_file:
            raise InvalidRequest("`file` is missing", param=FILE, error_code="missing_required_parameter")
        if not self._file_bytes:
            raise InvalidRequest("`file` is empty", param=FILE, error_code="invalid_value")
