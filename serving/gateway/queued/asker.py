"""Who asks for something that waits, and on which terms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import Scope

from serving._proto import broker_pb2 as bpb
from serving.errors import MeshError
from serving.gateway.call import Call
from serving.gateway.catalog import ModelKey
from serving.gateway.keys.gate import Gate
from serving.gateway.keys.usage import UsageReader
from serving.wire import Wire


@dataclass(frozen=True, slots=True)
class Asker:
    """`may_ask` says which models its key is for; `cut` ends what it waits for."""

    call: Call
    wire: Wire
    scope: Scope
    gate: Gate | None
    may_ask: Callable[[ModelKey], bool]
    cut: asyncio.Future[MeshError]

    def owns(self, item: bpb.Item) -> bool:
        """Where no key is needed, whoever has a ticket may use it."""
        return self.gate is None or item.tenant == self.call.tenant

    @asynccontextmanager
    async def admitted(self, tokens: int) -> AsyncIterator[UsageReader]:
        """A submission's place in the limits of its key. What is charged is entered at the end."""
        if self.gate is None or self.call.key is None:
            yield UsageReader(0)
            return
        async with self.gate.admitted(self.call.key, self.wire, prompt_tokens=tokens, answer_tokens=0) as usage:
            yield usage
