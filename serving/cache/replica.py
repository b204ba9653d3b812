"""One replica of a semantic cache: the life of its process.

States as those of a Python replica; "loading" is the embedding model, and what was kept before.
"""

from __future__ import annotations

from serving.cache.parts import CacheParts
from serving.python_deployment.replica import Parts, Replica


class CacheReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    async def _load(self) -> Parts:
        self._step("loading")
        parts = self._hold(CacheParts(self._config, self._node_address))
        await parts.load(lambda what: self._step("loading", what))
        return parts
