"""The driver of a Serve replica as its replica sees it. Belongs to one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Final

import serving
from serving.errors import FailedPrecondition, InvalidArgument
from serving.serve_deployment import orders
from serving.serve_deployment.orders import Order
from serving.serve_deployment.verdict import GONE, Sight
from serving.timeouts import cancel_and_wait

_LOG: Final = logging.getLogger(__name__)
_MAX_LINE: Final = 1 << 20
# Of our own Ray worker: a job of its own must not take itself for it.
_WORKER_VARIABLES: Final = ("RAY_JOB_ID", "RAY_RAYLET_PID", "RAY_NODE_ID", "RAY_CLIENT_MODE")


class DriverProcess:
    """`sight` is the last one; `failed` says why there will be no other. `changed` is set with each news."""

    def __init__(self, order: Order, log_file: Path | None) -> None:
        self._order = order
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.sight: Sight | None = None
        self.failed = ""
        self.changed = asyncio.Event()

    async def start(self) -> None:
        """Raises `FailedPrecondition` when it cannot be executed."""
        errors = None if self._log_file is None else self._log_file.open("ab")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "serving.serve_deployment.driver"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=_environment(),
                limit=_MAX_LINE,
            )
        except OSError as error:
            raise FailedPrecondition(f"the driver of Ray Serve cannot be executed: {error}") from error
        finally:
            if errors is not None:
                errors.close()
        self._say(self._order.to_line())
        self._reading = asyncio.create_task(self._read(), name="driver of Ray Serve")

    def delete(self) -> None:
        """Has the application taken away; `gone` says when that is done."""
        self._say(f"{orders.DELETE}\n".encode())

    @property
    def gone(self) -> bool:
        """Nothing of the application is left in Serve, as far as anybody will say."""
        return bool(self.failed) or (self.sight is not None and self.sight.status == GONE)

    async def close(self) -> None:
        """Ends the driver, and leaves the application as it is."""
        self._say(f"{orders.END}\n".encode())
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if self._reading is not None:
            await cancel_and_wait(self._reading)

    def _say(self, line: bytes) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(line)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        output = self._process.stdout
        while line := await output.readline():
            try:
                said = orders.read_line(line)
            except InvalidArgument as error:
                _LOG.warning("the driver says something else", extra={"error": error.message})
                continue
            if isinstance(said, Sight):
                self.sight = said
            else:
                self.failed = said
            self.changed.set()
        self.failed = self.failed or "the process that drives Ray Serve has ended: see the replica's log"
        self.changed.set()
        with contextlib.suppress(ProcessLookupError):
            await self._process.wait()


def _environment() -> dict[str, str]:
    """Ours, with the mesh importable; Ray is to pack all of the folder, whatever a .gitignore in it says."""
    root = str(Path(serving.__file__).resolve().parent.parent)
    found = {name: value for name, value in os.environ.items() if name not in _WORKER_VARIABLES}
    found["PYTHONPATH"] = os.pathsep.join(filter(None, (root, found.get("PYTHONPATH"))))
    return {**found, "RAY_RUNTIME_ENV_IGNORE_GITIGNORE": "1"}
