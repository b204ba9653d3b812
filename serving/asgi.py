"""An ASGI application on the event loop that calls, from `start` to `stop`, with uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Generator
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.config import TlsConfig
from serving.errors import FailedPrecondition

CONNECTION: Final = "mesh.connection"  # the ASGI extension whose `connection` is a `Connection`
_BACKLOG: Final = 4096
_KEEP_ALIVE_S: Final = 75.0
_HEAD_S: Final = 30.0  # from the connection, or the head's first byte, to its end
_HEAD_BYTES: Final = 64 << 10
_GATHERED_BYTES: Final = 64 << 10
_HEAD_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)


class HttpServer:
    """Listens on one address. Signals are not its business."""

    def __init__(self, application: Any, *, keep_alive_s: float = _KEEP_ALIVE_S) -> None:
        self._application = application
        self._keep_alive_s = keep_alive_s
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, tls: TlsConfig | None = None) -> int:
        """Returns the port when it takes connections. Raises `FailedPrecondition` when it cannot listen there."""
        bound = _bind(host, port)
        options: dict[str, Any] = {}
        if tls is not None:
            options = {"ssl_certfile": tls.cert_file, "ssl_keyfile": tls.key_file, "ssl_ca_certs": tls.ca_file or None}
            options["ssl_cert_reqs"] = ssl.CERT_REQUIRED if tls.ca_file else ssl.CERT_NONE
        config = uvicorn.Config(
            self._application,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody asks who the client is
            timeout_keep_alive=self._keep_alive_s,  # type: ignore[arg-type] # handed on to a timer
            http=_Protocol,
            ws="none",  # whoever asks for WebSockets is answered over HTTP
            **options,
        )
        try:
            config.load()
        except OSError as error:
            bound.close()
            files = " and ".join(filter(None, (tls.cert_file, tls.key_file, tls.ca_file))) if tls is not None else ""
            raise FailedPrecondition(f"the TLS files {files} cannot be used: {error.strerror or error}") from error
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # its life is told by whom it is a part of
        self._server = server = _Server(config)
        self._task = task = asyncio.create_task(self._serve(server, bound), name="http-server")
        started = asyncio.ensure_future(server.listens.wait())
        try:
            await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            started.cancel()
        if not server.listens.is_set():
            task.result()
            raise FailedPrecondition(f"the HTTP server on {host}:{port} ended as it started")
        return int(bound.getsockname()[1])

    @staticmethod
    async def _serve(server: uvicorn.Server, bound: socket.socket) -> None:
        with contextlib.closing(bound):
            try:
                await server.serve(sockets=[bound])
            except SystemExit as error:  # how uvicorn says that the application did not start
                raise FailedPrecondition("the HTTP application did not start; see the log") from error

    async def wait_ended(self) -> None:
        """Returns when it does not serve any more, for whatever reason."""
        if self._task is not None:
            await asyncio.wait({self._task})

    @property
    def serving(self) -> bool:
        """False before `start`, and once it has ended."""
        return self._task is not None and not self._task.done()

    async def stop(self, limit_s: float) -> None:
        """Takes no connections, gives requests that run this long, then ends them. May be repeated."""
        server, task = self._server, self._task
        if server is None or task is None:
            return
        server.config.timeout_graceful_shutdown = limit_s  # type: ignore[assignment] # handed on to a wait
        server.should_exit = True
        await task


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle off only then: an answer in two writes would take 40 ms more.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise FailedPrecondition(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    bound.setblocking(False)
    return bound


class _Gathered:
    """A transport that sends what is written up to `flush`, or to the next turn of the loop, at once: an answer's head
    goes with its body. While `held` the turn is not waited for: whoever has set it flushes.

    Each piece on its own costs a system call here, and wakes the client once more.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._soon: asyncio.Handle | None = None
        self.held = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if len(data) > _GATHERED_BYTES:  # putting it beside others would copy it, which costs more than a call
            self.flush()
            self._transport.write(data)
            return
        if self._soon is None and not self.held:
            self._soon = self._loop.call_soon(self.flush)
        self._pieces.append(data)
        self._bytes += len(data)
        if self._bytes > _GATHERED_BYTES:  # so that the transport can say that it has enough
            self.flush()

    def flush(self) -> None:
        self.held = False
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        pieces, self._pieces, self._bytes = self._pieces, [], 0
        if pieces:
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def close(self) -> None:
        self.flush()
        self._transport.close()


class Connection:
    """What an application may know of the one that its request came on, beyond ASGI."""

    def __init__(self, protocol: _Protocol) -> None:
        self._protocol = protocol
        self._watching: list[Callable[[], None]] = []
        self.lost = False

    def abort(self) -> None:
        """Ends it at once, for a client that takes nothing: a plain close waits until all is sent."""
        self._protocol.transport.abort()

    def hold(self) -> None:
        """What is written is sent by `flush`, which must follow in the same turn of the loop."""
        self._protocol.transport.held = True  # type: ignore[attr-defined] # of `_Gathered`

    def flush(self) -> None:
        """Sends now what was written, not in the next turn of the loop."""
        self._protocol.transport.flush()  # type: ignore[attr-defined] # of `_Gathered`

    @property
    def takes_more(self) -> bool:
        """Whether `send` returns without waiting for the client."""
        return not self._protocol.flow.write_paused

    @property
    def has_body(self) -> bool:
        """Whether `receive` returns without waiting for the client."""
        return self._protocol.cycle.message_event.is_set()

    def watch(self, gone: Callable[[], None]) -> None:
        """Calls it when the client goes away, until `unwatch`; at once where it has gone. As a wait for
        `http.disconnect`, without a task."""
        if self.lost:
            gone()
            return
        self._watching.append(gone)
        self._protocol.flow.resume_reading()  # else nobody sees it go

    def unwatch(self, gone: Callable[[], None]) -> None:
        if gone in self._watching:
            self._watching.remove(gone)

    def end(self) -> None:
        """It is lost."""
        self.lost = True
        watching, self._watching = self._watching, []
        for gone in watching:
            gone()


class _Protocol(HttpToolsProtocol):
    """Bounds what comes before a request: the bytes of its head, and how long that takes. Tells of its connection.

    Timers are made where somebody is slow, not for each request.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = _Gathered(transport, self.loop)  # type: ignore[assignment] # all that is used of one
        self._connection = Connection(self)
        self._in_head, self._head_bytes = True, 0  # a head is awaited, or comes
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)
        self._connection.end()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if self._head_bytes > _HEAD_BYTES:  # of what came before, so that a body in the same piece does not count
                self.transport.write(_HEAD_TOO_LARGE)
                self.transport.close()
                return
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_timer is None:
            self._time_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._idle_since = None
        self.scope["extensions"] = {CONNECTION: {"connection": self._connection}}
        if not self._in_head:  # not the first one of its connection
            self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def _time_head(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_S, self.transport.close)

    def _end_head(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_response_complete(self) -> None:
        """Goes on with the next request, or waits for one: as uvicorn's own, without a timer for each wait."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        if self._in_head:  # of the next one, which has a timer of its own
            return
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._end_idle)

    def _unset_keepalive_if_required(self) -> None:
        """Not for any byte: only where a head begins is there another timer."""

    def _end_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since is None:
            return  # the next wait has a timer of its own
        ends = self._idle_since + self.timeout_keep_alive
        if ends <= self.loop.time():
            self.transport.close()
        else:
            self._idle_timer = self.loop.call_at(ends, self._end_idle)


class _Server(uvicorn.Server):
    """Says when it listens, and leaves signals to the process that it is a part of."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield
