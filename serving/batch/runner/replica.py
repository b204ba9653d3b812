"""One runner: the life of its process. States as those of a Python replica."""

from __future__ import annotations

from serving.batch.runner.options import RUNS_NOTHING
from serving.errors import NotSupported
from serving.python_deployment.replica import Replica


class RunnerReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    async def _become_ready(self) -> None:
        self._begin_log()
        raise NotSupported(f"`batch` {RUNS_NOTHING}")
