"""One replica of a language model: the life of its process from its weights to the end of its last generation.

States as those of a Python replica; "preparing" fetches the weights, "loading" is the engine's start and the warm-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import uvloop

from serving._proto import records_pb2 as pb
from serving.hub_name import HubName, is_hub_name
from serving.llm import hub, settings
from serving.llm.generation_stream import call_on
from serving.llm.parts import LlmParts
from serving.python_deployment.environment import fetch_artifact
from serving.python_deployment.replica import Parts, Replica


class LlmReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()  # its users' requests are short and many; a quarter less time for each

    async def _load(self) -> Parts:
        config = self._config
        loop = asyncio.get_running_loop()
        folder = await asyncio.to_thread(_fetch, config, lambda what: call_on(loop, self._step, "preparing", what))
        self._step("loading")
        parts = self._hold(LlmParts(config, folder, self._node_address))
        await parts.load(lambda what: self._step("loading", what))
        return parts


def _fetch(config: pb.ReplicaConfig, tell: Callable[[str], None]) -> Path:
    """Where the weights are on this node. Blocking, may take minutes.

    Raises what `fetch_artifact` and `hub.fetch` say.
    """
    weights = config.llm.weights
    if is_hub_name(weights.uri):
        return hub.fetch(HubName.parse(weights.uri), config.llm.engine or settings.DEFAULT_ENGINE, tell)
    return fetch_artifact(config, weights)
