"""One replica of a language model: the life of its process from its weights to the end of its last generation.

States as those of a Python replica; "preparing" fetches the weights, "loading" is the engine's start and the warm-up.
"""

from __future__ import annotations

import asyncio
import time

from serving.llm.parts import LlmParts
from serving.python_deployment.environment import fetch_artifact
from serving.python_deployment.replica import Replica


class LlmReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    async def _become_ready(self) -> None:
        config = self._config
        self._begin_log()
        began = time.monotonic()
        folder = await asyncio.to_thread(fetch_artifact, config, config.llm.weights)
        self._step("loading")
        parts = LlmParts(config, folder, self._node_address)
        self._stack = parts  # what it holds is released when the replica leaves, also when it does not come up
        await parts.load(lambda what: self._step("loading", what))
        await self._announce(parts, began)
