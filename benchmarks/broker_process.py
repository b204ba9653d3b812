"""`python -m benchmarks.broker_process FOLDER`: a broker alone. Prints its port."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from serving.broker.replica import SWITCH_S
from serving.broker.server import BrokerServer
from serving.broker.settings import BrokerSettings


async def main(folder: Path) -> None:
    broker = BrokerServer(BrokerSettings(folder, ("worker",)), CollectorRegistry())
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print(await broker.start("127.0.0.1", 0, None), flush=True)
    await ended.wait()
    await broker.close()


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_S)  # as the broker's own process has it
    asyncio.run(main(Path(sys.argv[1])))
