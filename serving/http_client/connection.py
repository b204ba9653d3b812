"""One connection, and one request on it at a time (RFC 9112)."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import httptools

from serving.http_client.answer import Answer
from serving.http_client.errors import Broke, Silent
from serving.http_client.headers import Headers
from serving.sockets import watch_peer

_HEAD_BYTES: Final = 64 << 10
_HELD_BYTES: Final = 256 << 10  # of a body that nobody takes: no more is read then
_INFORMATIONAL: Final = range(100, 200)
_NO_BODY: Final = (204, 304)


class Owner(Protocol):
    """Is told what becomes of a connection. `text` is where it goes, for errors."""

    text: str

    def made(self, connection: Connection) -> None:
        """It is there."""

    def free(self, connection: Connection) -> None:
        """Another request may be sent."""

    def lost(self, connection: Connection) -> None:
        """It has ended."""


class Connection(asyncio.Protocol):
    def __init__(self, owner: Owner) -> None:
        self.idle_since = 0.0
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._asked = False  # an answer is awaited, or comes
        self._bodiless = False  # it answers a request for a head alone
        self._waiter: asyncio.Future[Answer] | None = None  # for the head
        self._answer: Answer | None = None
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._until_close = False
        self._ended = False  # the answer, in the data that are being read
        self._stays = False  # the server keeps the connection after the answer
        self._paused = False
        self._heard = 0.0
        self._silence_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0  # when the timer ends: one of uvloop's that is due does not know

    # ------------------------------------------------------------------------------------------------ asking

    async def ask(self, data: tuple[bytes, ...], *, bodiless: bool, silence_s: float) -> Answer:
        """Sends it and returns when the head of the answer is there. Raises `Broke`.

        `bodiless`: the answer has a head alone, whatever that says. `silence_s`: it is given up when that long nothing
        comes that is waited for, also later.
        """
        if self._transport.is_closing():
            raise Broke(f"{self._owner.text}: the connection ended")
        self._asked, self._bodiless = True, bodiless
        self._answer, self._fields, self._head_bytes, self._until_close = None, [], 0, False
        self._heard, self._silence_s = self._loop.time(), silence_s
        self._look_at(self._heard + silence_s)
        waiter: asyncio.Future[Answer] = self._loop.create_future()
        self._waiter = waiter
        for piece in data:
            self._transport.write(piece)
        try:
            return await waiter
        except asyncio.CancelledError:
            if self._waiter is waiter:  # else its answer has ended, and another request may be on its way
                self.abort()
            raise

    @property
    def usable(self) -> bool:
        return not self._asked and not self._transport.is_closing()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def abort(self, why: str = "the answer was not wanted any more") -> None:
        self._break(why)

    def _look_at(self, when: float) -> None:
        """Then, or sooner: the timer of an earlier request stays, as one for each would cost more than all the rest."""
        if self._timer is not None:
            if self._looks_at <= when:
                return
            self._timer.cancel()
        self._looks_at = when
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """Whether it is silent. Time in which nobody wants more does not count."""
        self._timer = None
        if not self._asked:
            return
        now = self._loop.time()
        since = self._heard if self._answer is None else max(self._heard, self._answer.waits_since or now)
        if now - since >= self._silence_s:
            self._break(f"nothing came for {self._silence_s:g} s", kind=Silent)
        else:
            self._look_at(since + self._silence_s)

    def _break(self, why: str, cause: BaseException | None = None, kind: type[Broke] = Broke) -> None:
        self._transport.abort()
        if not self._asked:
            return
        error = kind(f"{self._owner.text}: {why}")
        error.__cause__ = cause
        waiter = self._waiter
        self._done()
        if self._answer is not None:
            self._answer.fail(error)
        elif waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def _done(self) -> None:
        self._asked, self._waiter = False, None

    # ------------------------------------------------------------------------------------------------ of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # asyncio says: any
        self._transport = transport
        watch_peer(transport.get_extra_info("socket"))
        self._owner.made(self)

    def data_received(self, data: bytes) -> None:
        if not self._asked:
            self._transport.abort()  # who speaks unasked would have it taken for the next answer
            return
        self._heard = self._loop.time()
        self._ended = self._stays = False
        if self._answer is None:  # a field is told when it is whole: this bounds one without an end
            if self._head_bytes > _HEAD_BYTES:
                self._break(f"its head has more than {_HEAD_BYTES} bytes")
                return
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._ended:
                self._break(f"what it answers is not HTTP: {error.__context__ or error}", error)
                return
            self._stays = False
        if self._ended:
            self._end(reusable=self._stays and not self._transport.get_write_buffer_size())
        elif self._answer is not None and self._answer.held_bytes > _HELD_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self)
        if self._timer is not None:
            self._timer.cancel()
        if not self._asked:
            return
        if exc is None and self._until_close and self._answer is not None:
            self._end(reusable=False)
        else:
            self._break(f"the connection ended{f' ({exc})' if exc else ''}", exc)

    def _end(self, *, reusable: bool) -> None:
        assert self._answer is not None
        answer = self._answer
        self._done()
        self.resume()
        answer.end()
        if reusable:
            self._owner.free(self)
        else:
            self._transport.abort()

    # ------------------------------------------------------------------------------------------------ of the parser

    def on_message_begin(self) -> None:
        self._stays = False  # that of the answer is heard at its end: this one nobody has asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is not None:
            return  # a trailer, or of what nobody asked for
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._answer is not None or status in _INFORMATIONAL:
            self._fields = []
            return
        headers = Headers(self._fields)
        bodiless = self._bodiless or status in _NO_BODY
        chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        self._until_close = not bodiless and not chunked and "content-length" not in headers
        self._answer = Answer(status, headers, self)
        self._ended = self._bodiless
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._answer)

    def on_body(self, body: bytes) -> None:
        if self._answer is not None and not self._ended:
            self._answer.feed(body)

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._ended:
            self._ended = True
            self._stays = self._parser.should_keep_alive()
