"""A language model's HTTP application under a real server."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from serving.llm.app import build_app
from serving.llm.engine import Engine
from serving.llm.limits import Limits
from tests.support.app_server import AppServer


class LlmServer(AppServer):
    """`call` runs on the loop to which the engine belongs."""

    def __init__(self, engine: Engine, *, model: str = "tiny", limits: Limits | None = None, **options: Any) -> None:
        self.engine = engine
        self.draining = False
        self.registry = CollectorRegistry()
        super().__init__(
            build_app(
                engine,
                model,
                limits or Limits(),
                revision="3",
                registry=self.registry,
                replica="chat-0",
                draining=lambda: self.draining,
                **options,
            )
        )

    @property
    def admission(self) -> Any:
        return self.app.state.service.admission

    async def begin(self) -> None:
        await self.engine.start(print)

    async def end(self) -> None:
        await self.engine.close()
