"""Connections that are kept for the next request."""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from serving.errors import InvalidArgument
from serving.http_client.answer import Answer
from serving.http_client.connection import Connection
from serving.http_client.errors import Broke, NotConnected
from serving.timeouts import wait_for

_IDLE_S: Final = 15.0  # less than servers keep them: what is sent as one ends is lost
_JOINED_BYTES: Final = 64 << 10  # a body up to here is sent with its head; larger ones would cost a copy
_PATH: Final = re.compile(r"/[\x21-\x7e]*")
_BREAKS: Final = re.compile(r"[\x00\r\n]")
_HEAD: Final = "HEAD"
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


class HttpClient:
    """As many connections to a server as it has requests there. Belongs to one event loop."""

    def __init__(self, *, connect_s: float, silence_s: float, tls: ssl.SSLContext | None = None) -> None:
        """`connect_s`: until a connection is there; `silence_s`: as `Connection.ask`; `tls` is for `https`."""
        self._connect_s = connect_s
        self._silence_s = silence_s
        self._tls = tls
        self._origins: dict[str, _Origin] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def request(
        self, method: str, origin: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Answer:
        """Returns when the head of the answer is there; whoever gets it must `close` it.

        `origin` is a scheme, a host and a port, such as `http://127.0.0.1:8000`; `path` is encoded, and may have a
        query; names of `headers` are in lower case. Raises `NotConnected` when nothing was sent, `Broke` when there is
        no answer, `InvalidArgument` for what cannot be said in HTTP.
        """
        found = self._origins.get(origin) or self._add(origin)
        data = _request(method, found.host, path, headers, body)
        connection = found.take() or await self._connect(found)
        return await connection.ask(data, bodiless=method == _HEAD, silence_s=self._silence_s)

    async def close(self) -> None:
        """Ends all connections, also those with requests."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for origin in self._origins.values():
            for connection in tuple(origin.all):
                connection.abort("this client was closed")
        await asyncio.sleep(0)  # the transports end in the next turn

    def _add(self, text: str) -> _Origin:
        origin = self._origins[text] = _Origin(text, self._expect_idle)
        return origin

    async def _connect(self, origin: _Origin) -> Connection:
        loop = asyncio.get_running_loop()
        if origin.secure and self._tls is None:
            self._tls = ssl.create_default_context()
        origin.connecting += 1
        try:
            connecting = loop.create_connection(
                lambda: Connection(origin), origin.name, origin.port, ssl=self._tls if origin.secure else None
            )
            transport, connection = await wait_for(connecting, self._connect_s)
        except asyncio.TimeoutError as error:  # before Python 3.11 no `OSError`
            raise NotConnected(origin.text, TimeoutError(f"not in {self._connect_s:g} s")) from error
        except OSError as error:
            several = error.errno is None and not isinstance(error, ssl.SSLError)  # of a name, each with its own error
            raise NotConnected(origin.text, ConnectionError(str(error)) if several else error) from error
        finally:
            origin.connecting -= 1
        if self._closed:
            transport.abort()
            raise Broke(f"{origin.text}: this client was closed")
        return connection

    def _expect_idle(self) -> None:
        if self._sweep is None and not self._closed:
            self._sweep = asyncio.get_running_loop().call_later(_IDLE_S, self._end_idle)

    def _end_idle(self) -> None:
        self._sweep = None
        now = asyncio.get_running_loop().time()
        for text, origin in tuple(self._origins.items()):
            origin.end_idle(now - _IDLE_S)
            if origin.idle:
                self._expect_idle()
            elif not origin.all and not origin.connecting:
                del self._origins[text]


class _Origin:
    """A server, and the connections to it; of `idle` the last one is the warmest."""

    def __init__(self, text: str, idles: Callable[[], None]) -> None:
        """`idles` is called when one is idle. Raises `NotConnected` for what is no address."""
        try:
            parts = urlsplit(text)
            self.secure = parts.scheme == "https"
            self.port = parts.port or (443 if self.secure else 80)
        except ValueError as error:
            raise NotConnected(text, OSError(errno.EINVAL, str(error))) from error
        self.text = text
        self.host = parts.netloc
        self.name = parts.hostname or ""
        self.all: set[Connection] = set()
        self.idle: list[Connection] = []
        self.connecting = 0
        self._idles = idles

    def take(self) -> Connection | None:
        self.end_idle(asyncio.get_running_loop().time() - _IDLE_S)
        while self.idle:
            connection = self.idle.pop()
            if connection.usable:
                return connection
        return None

    def made(self, connection: Connection) -> None:
        self.all.add(connection)

    def free(self, connection: Connection) -> None:
        connection.idle_since = asyncio.get_running_loop().time()
        self.idle.append(connection)
        self._idles()

    def lost(self, connection: Connection) -> None:
        self.all.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def end_idle(self, before: float) -> None:
        """Those that are so since then, which stand first."""
        while self.idle and self.idle[0].idle_since <= before:
            self.idle.pop(0).abort()


def _request(method: str, host: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[bytes, ...]:
    if not _PATH.fullmatch(path):
        raise InvalidArgument(f"the path {path[:80]!r} must be encoded for HTTP")
    lines = [f"{method} {path} HTTP/1.1\r\nhost: {host}"]
    for name, value in headers.items():
        if _BREAKS.search(value):
            raise InvalidArgument(f"the header `{name}` has a line break or a zero byte")
        lines.append(f"{name}: {value}")
    if body or method in _WITH_BODY:
        lines.append(f"content-length: {len(body)}")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    if len(body) <= _JOINED_BYTES:
        return (head + body,)
    return head, body
