"""One replica of an embedding model: the life of its process from its weights to its last answer.

States as those of a Python replica; "preparing" fetches the weights, "loading" is the model's start and the warm-up.
"""

from __future__ import annotations

import asyncio
import time

from serving.embedding.parts import EmbeddingParts
from serving.python_deployment.environment import fetch_artifact
from serving.python_deployment.replica import Replica


class EmbeddingReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    async def _become_ready(self) -> None:
        config = self._config
        self._begin_log()
        began = time.monotonic()
        folder = None
        if config.embedding.HasField("weights"):
            folder = await asyncio.to_thread(fetch_artifact, config, config.embedding.weights)
        self._step("loading")
        parts = EmbeddingParts(config, folder, self._node_address)
        self._stack = parts  # what it holds is released when the replica leaves, also when it does not come up
        await parts.load()
        await self._announce(parts, began)
