"""The one timer of a connection, on loops of uvloop: one that is due at once is a handle without a time."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from serving.http_client.answer import Answer
from serving.http_client.connection import Connection
from serving.timeouts import wait_for
from tests.unit.http_client.scripted_server import serving

_ASK = (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",)
_HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class Owner:
    text = "the server"

    def made(self, connection: Connection) -> None: ...

    def free(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...


async def _ask_after_one_that_is_due() -> None:
    """In one turn of the loop: the first timer has not been looked at when the second request is sent."""
    loop = asyncio.get_running_loop()
    async with serving(_HELLO) as server:
        host, port = server.url.removeprefix("http://").split(":")
        transport, connection = await loop.create_connection(lambda: Connection(Owner()), host, int(port))
        first = connection.ask(_ASK, bodiless=False, silence_s=1e-4)
        first.send(None)
        connection.data_received(_HELLO)
        with pytest.raises(StopIteration) as returned:
            first.send(None)
        assert isinstance(returned.value.value, Answer)
        assert connection.usable
        second = connection.ask(_ASK, bodiless=False, silence_s=60.0)
        answer = await wait_for(second, 30)
        assert await answer.read() == b"hello"
        transport.close()


def test_a_request_is_sent_while_the_timer_of_an_earlier_one_is_due() -> None:
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(_ask_after_one_that_is_due())
    finally:
        loop.close()
