"""One application of Ray Serve as a replica of the mesh: deployed, watched, registered, taken away.

States as those of a Python replica; "preparing" fetches code and packages, "loading" is Ray Serve's deployment.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from serving._proto import records_pb2 as pb
from serving.python_deployment.replica import Parts, Replica
from serving.serve_deployment import workspace
from serving.serve_deployment.parts import ServeParts
from serving.serve_deployment.settings import environment_of, order_of


class ServeReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    leave_s: ClassVar[float] = 2.0  # those who ask over HTTP follow discovery by means of their own

    def __init__(
        self,
        config: pb.ReplicaConfig,
        *,
        actor: str,
        ray_address: str,
        ray_namespace: str,
        on_drained: Callable[[], None],
    ) -> None:
        """`actor` is its name in Ray, in `ray_namespace`."""
        super().__init__(config, on_drained=on_drained)
        self._actor = actor
        self._ray_address = ray_address
        self._ray_namespace = ray_namespace

    async def _load(self) -> Parts:
        config = self._config
        order = order_of(
            config,
            actor=self._actor,
            pid=os.getpid(),
            ray_address=self._ray_address,
            ray_namespace=self._ray_namespace,
        )
        folder = await asyncio.to_thread(workspace.prepare, environment_of(config))
        self._step("loading")
        parts = self._hold(ServeParts(config, replace(order, folder=str(folder or "")), folder))
        await parts.start()
        await parts.wait_ready(lambda what: self._step("loading", what))
        return parts
