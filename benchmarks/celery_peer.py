"""Celery and Redis for Ray Serve's `task_consumer`, in folders of their own below build/."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.servers import ROOT
from serving.errors import FailedPrecondition
from serving.local.ports import free_ports

VERSION: Final = "5.7.0"
PACKAGES: Final = ROOT / "build" / f"celery-{VERSION}"  # for PYTHONPATH
_REDIS: Final = ROOT / "build" / "redis"
_DEBIAN: Final = ("redis-tools", "libjemalloc2", "liblzf1", "libatomic1")  # redis-tools carries the server's program
_START_S: Final = 30.0
Say = Callable[[str], None]


def install(say: Say) -> None:
    """Once. Raises `FailedPrecondition` with the reason."""
    if not PACKAGES.exists():
        say(f"installing Celery {VERSION} into {PACKAGES.relative_to(ROOT)}")
        part = PACKAGES.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        _done([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(part), f"celery[redis]=={VERSION}"])
        part.rename(PACKAGES)
    if shutil.which("redis-server") is None and not _REDIS.exists():
        say(f"unpacking Debian's Redis into {_REDIS.relative_to(ROOT)}")
        part = _REDIS.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _done(["apt-get", "download", *_DEBIAN], part)
        for package in sorted(part.glob("*.deb")):
            _done(["dpkg", "-x", str(package), str(part)])
            package.unlink()
        part.rename(_REDIS)


def _done(command: list[str], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    except OSError as error:
        raise FailedPrecondition(f"`{' '.join(command)}`: {error}") from error
    if done.returncode != 0:
        raise FailedPrecondition(f"`{' '.join(command)}` failed: {done.stderr.strip()[-300:]}")


@contextlib.contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """Its URL. It keeps its append-only file in `folder` and writes it to the disk each second, as it is advised to."""
    port = free_ports(1)[0]
    program = shutil.which("redis-server") or str(_REDIS / "usr" / "bin" / "redis-check-rdb")
    folder.mkdir(parents=True, exist_ok=True)
    options = {"port": str(port), "bind": "127.0.0.1", "dir": str(folder), "appendonly": "yes", "save": ""}
    command = ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", value))]
    env = {**os.environ, "LD_LIBRARY_PATH": str(_REDIS / "usr" / "lib" / "x86_64-linux-gnu")}
    with (folder / "redis.log").open("wb") as log:  # by its name the program knows that it is to serve
        process = subprocess.Popen(command, executable=program, stdout=log, stderr=log, env=env)
    try:
        _wait_ready(process, port, folder)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(_START_S)


def _wait_ready(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(16).startswith(b"+PONG"):
                return
        time.sleep(0.05)
    raise FailedPrecondition(f"Redis does not answer; see {folder / 'redis.log'}")
