"""Servers for the C++ client: a real grpcio one, and a TCP one that answers what a test tells it."""

from __future__ import annotations

import concurrent.futures
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import grpc

ECHO = "/test.Echo/"
FLOOD_BYTES = 65_536  # of each message of Flood


class EchoService(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic only in the stubs
    """Bytes in, bytes out: Unary, Sleep, Fail, Sum (client stream), Count (server stream), Chat, Mute, Big, Flood."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.deadlines: list[float | None] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        name = details.method.removeprefix(ECHO)
        unary = {"Unary": self._unary, "Sleep": self._sleep, "Fail": self._fail, "Big": self._big}
        if name in unary:
            return grpc.unary_unary_rpc_method_handler(unary[name])
        if name == "Sum":
            return grpc.stream_unary_rpc_method_handler(self._sum)
        if name == "Count":
            return grpc.unary_stream_rpc_method_handler(self._count)
        if name == "Flood":
            return grpc.unary_stream_rpc_method_handler(self._flood)
        if name == "Chat":
            return grpc.stream_stream_rpc_method_handler(self._chat)
        if name == "Mute":
            return grpc.stream_stream_rpc_method_handler(self._mute)
        return None

    def _unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.deadlines.append(context.time_remaining())
        return request

    def _sleep(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._wait_cancelled(context)
        return request

    def _fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("why", "asked"), ("why-bin", b"\x00\xff")))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())
        return b""

    def _big(self, request: bytes, _: grpc.ServicerContext) -> bytes:
        return b"y" * int(request)

    def _sum(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
        return b"+".join(requests)

    def _count(self, request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    def _flood(self, request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        for _number in range(int(request)):
            yield b"f" * FLOOD_BYTES

    def _chat(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield request.upper()

    def _mute(self, _: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._wait_cancelled(context)
        yield from ()

    def _wait_cancelled(self, context: grpc.ServicerContext) -> None:
        if not context.add_callback(self.cancelled.set):  # it was over before this thread came to it
            self.cancelled.set()
        self.cancelled.wait(60)


class GrpcServer:
    """grpcio's server with the echo service on a port of loopback; `port` 0 is any free one."""

    def __init__(
        self,
        *,
        port: int = 0,
        credentials: grpc.ServerCredentials | None = None,
        compression: grpc.Compression | None = None,
        options: tuple[tuple[str, object], ...] = (),
    ) -> None:
        self.service = EchoService()
        self.server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(16),
            compression=compression,
            options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), *options),
        )
        self.server.add_generic_rpc_handlers((self.service,))
        where = f"127.0.0.1:{port}"
        self.port = (
            self.server.add_insecure_port(where)
            if credentials is None
            else self.server.add_secure_port(where, credentials)
        )
        self.server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> GrpcServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.service.cancelled.set()
        self.server.stop(0).wait()


def tls_credentials(cert: str, key: str, ca: str = "") -> grpc.ServerCredentials:
    """With `ca`, clients must show a certificate of it."""
    pair = (Path(key).read_bytes(), Path(cert).read_bytes())
    return grpc.ssl_server_credentials(
        [pair], root_certificates=Path(ca).read_bytes() if ca else None, require_client_auth=bool(ca)
    )


# ---------------------------------------------------------------------------------------------- hostile servers

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: str, value: str) -> bytes:
    """One header field, literal, never indexed, without Huffman coding (RFC 7541, 6.2.3)."""

    def text(part: bytes) -> bytes:
        if len(part) < 127:
            return bytes([len(part)]) + part
        rest, coded = len(part) - 127, bytes([127])
        while rest >= 128:
            coded += bytes([rest % 128 + 128])
            rest //= 128
        return coded + bytes([rest]) + part

    return b"\x10" + text(name.encode()) + text(value.encode())


def headers(stream: int, fields: dict[str, str], *, end: bool = False) -> bytes:
    block = b"".join(header(name, value) for name, value in fields.items())
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)


OK_HEADERS = {":status": "200", "content-type": "application/grpc"}


def message(payload: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    return bytes([flag]) + struct.pack(">I", len(payload) if length is None else length) + payload


class Peer:
    """One accepted connection, after the client's preface."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(60)
        self._buffer = b""
        self._read(len(PREFACE))

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            more = self.connection.recv(65536)
            if not more:
                raise ConnectionError("the client closed")
            self._buffer += more
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def greet(self) -> None:
        """Our settings, and the acknowledgement of the client's."""
        self.send(frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0))

    def read_frame(self) -> tuple[int, int, int, bytes]:
        """Kind, flags, stream, payload."""
        head = self._read(9)
        length = int.from_bytes(head[:3], "big")
        return head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, self._read(length)

    def wait_for(self, kind: int) -> tuple[int, int, bytes]:
        """Skips to the next frame of that kind: flags, stream, payload."""
        while True:
            got, flags, stream, payload = self.read_frame()
            if got == kind:
                return flags, stream, payload

    def wait_call(self) -> int:
        """The stream of the next call whose request is complete."""
        while True:
            kind, flags, stream, _ = self.read_frame()
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                return stream

    def wait_closed(self) -> None:
        """Until the client has closed the connection."""
        try:
            while True:
                self.read_frame()
        except (ConnectionError, OSError):
            return


class HostileServer:
    """Runs `behave` for every connection, each on its own thread; what it raises fails the test."""

    def __init__(self, behave: Callable[[Peer], None]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._behave(Peer(connection))
        except (ConnectionError, OSError):
            return  # the client went away, which is its right
        except BaseException as error:  # noqa: BLE001  handed to the test's thread
            self._errors.append(error)

    def __enter__(self) -> HostileServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(60)
        for connection in self._sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already
        for thread in self._threads:
            thread.join(60)
        if self._errors and error is None:
            raise self._errors[0]
