"""One runner: the life of its process. States as those of a Python replica."""

from __future__ import annotations

from serving.batch.runner.parts import RunnerParts
from serving.python_deployment.replica import Parts, Replica


class RunnerReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    async def _load(self) -> Parts:
        self._step("loading")
        return self._hold(RunnerParts(self._config, self._node_address))
