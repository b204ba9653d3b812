"""One replica of an embedding model: the life of its process from its weights to its last answer.

States as those of a Python replica; "preparing" fetches the weights, "loading" is the model's start and the warm-up.
"""

from __future__ import annotations

import asyncio

from serving.embedding.parts import EmbeddingParts
from serving.python_deployment.environment import fetch_artifact
from serving.python_deployment.replica import Parts, Replica


class EmbeddingReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    async def _load(self) -> Parts:
        config = self._config
        folder = None
        if config.embedding.HasField("weights"):
            folder = await asyncio.to_thread(fetch_artifact, config, config.embedding.weights)
        self._step("loading")
        parts = self._hold(EmbeddingParts(config, folder, self._node_address))
        await parts.load()
        return parts
