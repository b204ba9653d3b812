"""HTTP/2 by hand, for peers that break its rules. Frames are built and read one by one."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
ENHANCE_YOUR_CALM = 11
TIMEOUT_S = 60

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(headers: Headers) -> bytes:
    """HPACK without tables: names and values as they are (shorter than 127 bytes, or length-coded)."""

    def text(value: str) -> bytes:
        raw = value.encode()
        if len(raw) < 127:
            return bytes([len(raw)]) + raw
        rest, out = len(raw) - 127, b"\x7f"
        while rest >= 128:
            out += bytes([rest % 128 + 128])
            rest //= 128
        return out + bytes([rest]) + raw

    return b"".join(b"\0" + text(name) + text(value) for name, value in headers)


def request_headers(path: str = "/mesh.test.Echo/Unary", **changes: str | None) -> list[tuple[str, str]]:
    """Headers of a gRPC request. Changes by name with "_" for "-"; None leaves one out; method, scheme: pseudo."""
    headers: dict[str, str | None] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "test",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    for name, value in changes.items():
        known = f":{name}" if f":{name}" in headers else name.replace("_", "-")
        headers[known] = value
    return [(name, value) for name, value in headers.items() if value is not None]


def message(payload: bytes, *, flag: int = 0, declared: int | None = None) -> bytes:
    return bytes([flag]) + struct.pack(">I", len(payload) if declared is None else declared) + payload


class RawPeer:
    """A client's connection that does what it is told."""

    def __init__(self, port: int, *, preface: bool = True, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = hpack.Decoder()
        self._buffer = b""
        if preface:
            self.send(PREFACE + frame(SETTINGS, 0, 0))

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def try_send(self, data: bytes) -> bool:
        """False when the server has closed the connection already."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, BrokenPipeError):
            return False
        return True

    def request(self, stream: int, headers: Headers, *bodies: bytes, end: bool = True) -> None:
        flags = END_HEADERS | (END_STREAM if end and not bodies else 0)
        out = frame(HEADERS, flags, stream, literal(headers))
        for number, body in enumerate(bodies):
            out += frame(DATA, END_STREAM if end and number == len(bodies) - 1 else 0, stream, body)
        self.send(out)

    def _fill(self, size: int) -> bool:
        """Until so much is in the buffer; False when the connection ends before."""
        while len(self._buffer) < size:
            try:
                part = self.socket.recv(65536)
            except ConnectionError:
                part = b""
            if not part:
                return False
            self._buffer += part
        return True

    def next_frame(self) -> Frame | None:
        """The next frame, or None when the connection has ended.

        Raises TimeoutError when nothing comes, or half a frame, which stays for the next call.
        """
        if not self._fill(9):
            return None
        head, end = self._buffer[:9], 9 + int.from_bytes(self._buffer[:3], "big")
        if not self._fill(end):
            return None
        payload, self._buffer = self._buffer[9:end], self._buffer[end:]
        return Frame(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)

    def answer(self, stream: int) -> dict[str, str]:
        """All headers of the answer to a stream, trailers included; data under "data", a reset under "reset"."""
        seen: dict[str, str] = {}
        while (received := self.next_frame()) is not None:
            if received.kind == HEADERS:
                seen_now = self._decoder.decode(received.payload)
                if received.stream == stream:
                    seen.update((str(name), str(value)) for name, value in seen_now)
            elif received.kind == DATA and received.stream == stream:
                seen["data"] = seen.get("data", "") + received.payload.decode("latin1")
            elif received.kind == RST_STREAM and received.stream == stream:
                seen["reset"] = str(int.from_bytes(received.payload, "big"))
                return seen
            if received.stream == stream and received.flags & END_STREAM and received.kind in (HEADERS, DATA):
                return seen
        raise ConnectionError("the connection ended before the answer")

    def goaway(self) -> int | None:
        """Reads to the end of the connection; the error code of the last GOAWAY, or None when there was none."""
        code = None
        while (received := self.next_frame()) is not None:
            if received.kind == GOAWAY:
                code = int.from_bytes(received.payload[4:8], "big")
        return code
