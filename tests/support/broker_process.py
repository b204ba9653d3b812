"""`python -m tests.support.broker_process FOLDER [FIELD=NUMBER ...] [callbacks] [name=NAME] [redis=PORT:SCOPE]`: a
broker alone, which tests may kill. With `callbacks` it calls back on loopback, and tries again soon; with `redis` its
journals are there, and taken over soon.

Prints its port as a line, and its journals whenever they change.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry

from serving.broker.callbacks.settings import CallbackSettings
from serving.broker.redis_log.settings import Address, RedisSettings
from serving.broker.server import BrokerServer
from serving.broker.settings import BrokerSettings
from tests.support.waiting import eventually

_LOOK_S = 0.02
TAKEOVER_S = 2.0
_CALLBACKS = CallbackSettings(
    networks=("127.0.0.0/8",), allow_http=True, first_delay_s=0.1, max_delay_s=0.3, max_attempts=1_000_000
)


class LoneBroker:
    """Such a process. `journals` are those that it said last."""

    def __init__(self, folder: Path, *, callbacks: bool = False, **changes: float | str) -> None:
        fields = [f"{name}={value}" for name, value in changes.items()] + ["callbacks"] * callbacks
        command = [sys.executable, "-m", "tests.support.broker_process", str(folder), *fields]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = 0
        self.journals: tuple[str, ...] = ()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def address(self) -> str:
        eventually(lambda: self.port, timeout_s=180.0, what="the broker's port")
        return f"127.0.0.1:{self.port}"

    def serves(self, *journals: str) -> bool:
        return set(journals) <= set(self.journals)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It lives, and does nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def drain(self) -> None:
        self._end(signal.SIGTERM)

    def __enter__(self) -> LoneBroker:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.kill()

    def _end(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait(120)
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                kind, _, value = line.strip().partition(" ")
                if kind == "port":
                    self.port = int(value)
                elif kind == "journals":
                    self.journals = tuple(value.split())


async def main(folder: str, *fields: str) -> None:
    given: dict[str, Any] = {}
    for field in fields:
        name, _, value = field.partition("=")
        if name == "callbacks":
            given[name] = _CALLBACKS
            continue
        if name == "redis":
            port, _, scope = value.partition(":")
            given[name] = RedisSettings(Address("127.0.0.1", int(port)), scope, takeover_s=TAKEOVER_S)
            continue
        if name == "name":
            given[name] = value
            continue
        given[name] = float(value) if name.endswith("_s") else int(value)
    settings = BrokerSettings(folder=Path(folder), deployments=("worker",), **given)
    broker = BrokerServer(settings, CollectorRegistry())
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    port = await broker.start("127.0.0.1", 0, None)
    told: tuple[str, ...] = ()
    while not ended.is_set():
        if broker.journals != told:
            told = broker.journals
            print("journals", *told, flush=True)
            print("port", port, flush=True)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), _LOOK_S)
    await broker.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
