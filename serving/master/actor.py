"""The Ray actor around the application's master. The agent creates it; Ray restarts it.

Importable by name and plain Python: in a job that loads a C++ library, Ray does not ship classes, it imports them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Final

from serving._proto import records_pb2 as pb
from serving.master.application import ApplicationMaster
from serving.master.config import MasterConfig
from serving.master.names import MasterName
from serving.master.order import app_key
from serving.master.ray_actors import node_address
from serving.master.ray_launcher import RayLauncher
from serving.observe.logging import configure_logging
from serving.store.records import decode, encode

_LOG: Final = logging.getLogger(__name__)
_BROKEN: Final = 70  # exit status: an error inside, as sysexits.h has it


class MasterActor:
    """Detached and named; `num_cpus=0`. All methods answer at once."""

    async def __init__(self, config_json: str, placement_json: str) -> None:  # type: ignore[misc] # Ray awaits it
        config = MasterConfig.from_json(config_json)
        order = decode(pb.Placement, placement_json.encode())
        app = app_key(order)
        configure_logging(
            level=config.log_level,
            file=config.log_file("masters", f"{app.namespace}.{app.name}.log"),
            style="json",
            process="master",
            cluster=config.cluster,
            app=str(app),
            generation=order.generation,
        )
        logging.getLogger("grpc").setLevel(logging.INFO)  # below it, it tells of every loop
        launcher = RayLauncher(config.mesh, MasterName(app, order.generation))
        self._master = ApplicationMaster(config, order, launcher, node_address=node_address())
        self._task = asyncio.create_task(self._master.run())
        self._task.add_done_callback(_end_process)

    async def ping(self) -> int:
        """The process's pid."""
        return os.getpid()

    async def work_order(self) -> str:
        """The `Placement` that it follows, in canonical JSON."""
        return encode(self._master.order).decode()

    async def status(self) -> str:
        """Its `ApplicationStatus`, in canonical JSON; empty before the first look."""
        status = self._master.status
        return encode(status).decode() if status is not None else ""

    async def stop(self) -> bool:
        """Has it drain and end its replicas; True when everything has ended and the actor may be killed."""
        await self._master.stop()
        return self._master.finished


def _end_process(task: asyncio.Task[None]) -> None:
    """An actor that lives without its task would be worse than none: Ray starts it again."""
    if not task.cancelled():
        _LOG.critical("master ends", exc_info=task.exception())
        logging.shutdown()
        os._exit(_BROKEN)
