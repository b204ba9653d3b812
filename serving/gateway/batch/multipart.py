"""Forms with files, as they come: `multipart/form-data`, never more of it in memory than was fed, and one head.

Source: RFC 7578, RFC 2046 (section 5.1); names of files as browsers and `httpx` write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Final

from serving.openai.errors import InvalidRequest

MAX_PARTS: Final = 32
MAX_HEAD_BYTES: Final = 8 << 10  # of one part
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_HEAD_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class PartBegins:
    """`filename` None: a field of the form."""

    name: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class PartData:
    """Some of the content of the part that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnds:
    """The part that began last is whole."""


Event = PartBegins | PartData | PartEnds


def boundary_of(content_type: str) -> bytes:
    """Raises `InvalidRequest` for what is no form with files."""
    message = Message()
    message["content-type"] = content_type[:1000]
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/form-data":
        raise _wrong(f"the content type multipart/form-data is wanted, found {content_type[:80]!r}")
    if not isinstance(boundary, str) or not _BOUNDARY.fullmatch(boundary):
        raise _wrong("the content type has no usable boundary")
    return boundary.encode()


class MultipartReader:
    """`feed` what comes, then `finish`. Both raise `InvalidRequest`."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._rest = b"\r\n"  # so that the first delimiter is as all others
        self._state = self._preamble
        self._parts = 0
        self._ended = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """What is known by now. To be taken to its end before the next call."""
        self._rest += data
        while True:
            before = len(self._rest), self._state
            yield from self._state()
            if (len(self._rest), self._state) == before:
                return

    def finish(self) -> None:
        """Nothing more comes."""
        if not self._ended:
            raise _wrong("the form is cut off: its last delimiter is missing")

    # Each state takes what it understands from the front of the rest, and leaves it where more must come first.

    def _preamble(self) -> Iterator[Event]:
        at = self._rest.find(self._delimiter)
        if at >= 0:
            self._after(at)
        elif len(self._rest) > MAX_HEAD_BYTES:
            raise _wrong("the body does not begin with the boundary of its content type")
        yield from ()

    def _delimited(self) -> Iterator[Event]:
        """Behind a delimiter: the next part's head, or the end."""
        line, found, rest = self._rest.partition(b"\r\n")
        if self._rest.startswith(b"--"):
            self._state, self._ended = self._epilogue, True
        elif found and not line.strip(b" \t"):
            self._rest, self._state = rest, self._head
            self._parts += 1
            if self._parts > MAX_PARTS:
                raise _wrong(f"the form has more than {MAX_PARTS} parts")
        elif found or len(line) > MAX_HEAD_BYTES or line.strip(b" \t\r") not in (b"", b"-"):
            raise _wrong("behind a boundary the line goes on")
        yield from ()

    def _head(self) -> Iterator[Event]:
        at = self._rest.find(_HEAD_END)
        if (at if at >= 0 else len(self._rest)) > MAX_HEAD_BYTES:
            raise _wrong(f"the head of a part has more than {MAX_HEAD_BYTES} bytes")
        if at >= 0:
            head, self._rest = self._rest[:at], self._rest[at + len(_HEAD_END) :]
            yield _begins(head)
            self._state = self._content

    def _content(self) -> Iterator[Event]:
        at = self._rest.find(self._delimiter)
        if at >= 0:
            data = self._rest[:at]
            self._after(at)
        else:
            kept = len(self._delimiter) - 1  # which may be the beginning of one
            data, self._rest = self._rest[:-kept], self._rest[-kept:]
        if data:
            yield PartData(data)
        if at >= 0:
            yield PartEnds()

    def _epilogue(self) -> Iterator[Event]:
        self._rest = b""
        yield from ()

    def _after(self, at: int) -> None:
        self._rest = self._rest[at + len(self._delimiter) :]
        self._state = self._delimited


def _begins(head: bytes) -> PartBegins:
    message = Message()
    for line in head.decode("utf-8", "replace").split("\r\n"):
        field, colon, value = line.partition(":")
        if not colon:
            raise _wrong(f"the head of a part has a line without a colon: {line[:60]!r}")
        message[field.strip().lower()] = value.strip()
    if message.get_content_disposition() != "form-data":
        raise _wrong("a part has no `content-disposition: form-data`")
    name = message.get_param("name", header="content-disposition")
    if not isinstance(name, str) or not name:
        raise _wrong("a part has no name")
    if message.get("content-transfer-encoding", "binary").lower() not in ("binary", "7bit", "8bit"):
        raise _wrong("a part has a content-transfer-encoding; send it as it is")
    return PartBegins(name, _filename(message))


def _filename(message: Message) -> str | None:
    """Also as RFC 5987 writes it, with a charset of its own. Raises `InvalidRequest`."""
    try:
        filename = message.get_filename()
        (filename or "").encode()  # some charsets can say half of a surrogate pair, which has no UTF-8
    except ValueError as error:
        raise _wrong("the filename of a part has no usable charset") from error
    return filename


def _wrong(text: str) -> InvalidRequest:
    return InvalidRequest(f"the form cannot be read: {text}", error_code="invalid_form")
