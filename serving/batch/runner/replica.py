"""One runner: the life of its process. States as those of a Python replica."""

from __future__ import annotations

import time

from serving.batch.runner.parts import RunnerParts
from serving.python_deployment.replica import Replica


class RunnerReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    async def _become_ready(self) -> None:
        self._begin_log()
        began = time.monotonic()
        self._step("loading")
        parts = RunnerParts(self._config, self._node_address)
        self._stack = parts  # what it holds is released when the replica leaves, also when it does not come up
        await self._announce(parts, began)
