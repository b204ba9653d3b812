"""A process that is a replica whose streams begin, and then say nothing: `idle_replica.py ETCD MODEL`.

Prints a line of JSON whenever the number of its streams has changed, at most ten times a second.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from serving.config import EtcdConfig
from tests.integration.gateway.raw_replica import RawReplica, raw_replica

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def main(etcd: str, model: str) -> None:
    held = 0
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)

    async def idle(replica: RawReplica, _body: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal held
        writer.write(HEAD + b'10\r\ndata: {"n": 1}\n\n\r\n')
        await writer.drain()
        held += 1
        try:
            await replica.readers[writer].read()  # until the gateway closes it
        finally:
            held -= 1

    async with raw_replica(EtcdConfig(endpoints=(etcd,)), "idle", idle, model=model):
        told = -1
        while not end.is_set():
            if held != told:
                told = held
                print(json.dumps({"held": held}), flush=True)
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
