"""A Redis server of a test's own, which it may kill and start again."""

from __future__ import annotations

import atexit
import itertools
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from serving.broker.redis_log.settings import Address, RedisSettings
from tests.support.waiting import eventually

_SCOPES = itertools.count()


class LoneRedis:
    """`options` as in its configuration file; what it is not told: it waits for its disk with each commit."""

    def __init__(self, folder: Path, **options: str) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is not installed: scripts/setup installs it"
        self._program = program
        self._folder = folder
        usual = {"appendonly": "yes", "appendfsync": "always", "save": "", "repl-diskless-sync-delay": "0"}
        self._options = {**usual, **options}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.client = redis.Redis(
            "127.0.0.1", self.port, protocol=2, password=options.get("requirepass"), **_tls(options)
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def version(self) -> tuple[int, ...]:
        info: Any = self.client.info("server")
        return tuple(int(part) for part in info["redis_version"].split(".")[:2])

    def settings(self, scope: str = "", **changes: Any) -> RedisSettings:
        """Of journals that nobody else has, or of `scope`."""
        return RedisSettings(Address("127.0.0.1", self.port), scope or f"t/a/{next(_SCOPES)}", **changes)

    def start(self) -> LoneRedis:
        self._folder.mkdir(parents=True, exist_ok=True)
        options = [part for name, value in self._options.items() for part in (f"--{name}", value)]
        at = ("--port", "0", "--tls-port") if "tls-cert-file" in self._options else ("--port",)
        where = ("--bind", "127.0.0.1", "--dir", str(self._folder))
        command = [self._program, *at, str(self.port), *where, *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        eventually(self._answers, timeout_s=30.0, what="the Redis server's answer")
        return self

    def kill(self) -> None:
        """As a machine would be: nothing is written any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def pause(self) -> None:
        """It says nothing, and its connections stay; until it is killed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> LoneRedis:
        return self.start()

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.kill()
        self.client.close()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


def _tls(options: Mapping[str, str]) -> dict[str, Any]:
    """For a client of a server that wants certificates: its own, of the same authority."""
    if "tls-cert-file" not in options:
        return {}
    files = {"ca_certs": "tls-ca-cert-file", "certfile": "tls-cert-file", "keyfile": "tls-key-file"}
    return {"ssl": True, **{f"ssl_{name}": options[option] for name, option in files.items()}}


@cache
def shared_redis() -> LoneRedis:
    """One for all tests of this process that neither kill it nor care for its disk."""
    folder = tempfile.TemporaryDirectory()
    server = LoneRedis(Path(folder.name), appendfsync="everysec").start()
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    return server
