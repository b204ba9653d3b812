"""Peers that break HTTP's rules or mean harm: answered or closed, at little cost, and everybody else is served."""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_servers import Ingress
from tests.integration.ingress.rest_cases import post, tensor
from tests.integration.ingress.test_rest_contract import ask
from tests.support.waiting import eventually

GOOD = post("/v2/models/id_fp32/infer", {"inputs": [tensor()]})
MIB = 1 << 20
HEAD = b"POST /v2/models/id_fp32/infer HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def server(start_ingress: StartIngress) -> Iterator[Ingress]:
    """A server that must still answer afterwards, and hold no more memory than before."""
    running = start_ingress("--model=id_fp32", f"--max-message-bytes={32 * MIB}")
    for _ in range(20):
        assert ask(running.address, GOOD).status == 200
    before = psutil.Process(running.process.pid).memory_info().rss
    yield running
    assert ask(running.address, GOOD).status == 200
    process = psutil.Process(running.process.pid)
    eventually(lambda: process.memory_info().rss - before < 100 * MIB, timeout_s=60, what="the memory of before")


def talk(server: Ingress, *pieces: bytes) -> bytes:
    """What the server says to these pieces until it closes."""
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as peer, ThreadPoolExecutor(1) as pool:
        # Heard while it is still spoken to: what it says before it closes is lost to whoever listens later.
        said = pool.submit(_heard, peer)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                peer.sendall(piece)
        return said.result()


def _heard(peer: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := peer.recv(65536):
            said += part
    return said


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400"),
        (HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", b"400"),
        (HEAD + b"Content-Length: 999999999999\r\n\r\n", b"413"),
        (HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n", b"431"),
        (HEAD + b"a: b\r\n" * 10_000 + b"\r\n", b"431"),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", b"431"),
    ],
)
def test_broken_rules_are_named(request_bytes: bytes, status: bytes, server: Ingress) -> None:
    said = talk(server, request_bytes)
    assert said.startswith(b"HTTP/1.1 " + status + b" "), said
    assert b"Connection: close\r\n" in said
    assert b'{"error":"' in said


def test_a_million_chunks_of_one_byte(server: Ingress) -> None:
    chunks = b"1\r\n \r\n" * 1_000_000
    said = talk(server, HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n", chunks, b"0\r\n\r\n")
    assert b"The document is empty. at" in said, said


def test_a_chunked_body_beyond_the_limit(server: Ingress) -> None:
    chunk = b"%x\r\n" % MIB + b"x" * MIB + b"\r\n"
    assert b" 413 " in talk(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 40)


def test_bombs(server: Ingress) -> None:
    bomb = gzip.compress(bytes(64 * MIB))
    head = HEAD + b"Connection: close\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    for _ in range(5):
        assert b" 413 " in talk(server, head, bomb)
    nested = b"[" * (30 * MIB)
    assert b" 500 " in talk(server, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(nested), nested)


def test_half_requests_of_many_clients(server: Ingress) -> None:
    host, port = server.address.rsplit(":", 1)
    peers = [socket.create_connection((host, int(port)), timeout=60) for _ in range(300)]
    for number, peer in enumerate(peers):
        peer.sendall((HEAD + b"Content-Length: 30000000\r\n\r\n[1")[: 10 + number])
    assert ask(server.address, GOOD).status == 200
    for peer in peers:
        peer.close()


def test_a_client_that_never_reads(server: Ingress) -> None:
    """240 MB of requests: the socket must fill up long before that."""
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=1) as deaf:
        with pytest.raises(TimeoutError):
            deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 10_000_000)
        assert ask(server.address, GOOD).status == 200


def test_rubbish(server: Ingress) -> None:
    chance = random.Random(11)
    body = GOOD.body or b""
    whole = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    host, port = server.address.rsplit(":", 1)
    for _ in range(1000):
        bad = bytearray(whole)
        for _ in range(chance.randrange(1, 5)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        with socket.create_connection((host, int(port)), timeout=60) as peer:
            peer.sendall(bytes(bad[: chance.randrange(1, len(bad) + 1)]))
