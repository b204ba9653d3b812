"""How a broker writes to a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import grpc.aio

from serving.broker import messages
from serving.errors import Unavailable
from serving.timeouts import wait_for

_WRITE_S: Final = 60.0


async def write(context: grpc.aio.ServicerContext[bytes, bytes], together: Sequence[bytes], reader: str) -> None:
    """Several messages as one. Raises `Unavailable` where the `reader` reads nothing for a minute."""
    try:
        await wait_for(context.write(messages.joined(together)), _WRITE_S)
    except asyncio.TimeoutError as error:
        raise Unavailable(f"{reader} has read nothing for {_WRITE_S:g} s") from error
