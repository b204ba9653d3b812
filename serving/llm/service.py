"""What all routes of one model's replica share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.llm.answers import AnswerHead
from serving.llm.engine import Capabilities, Engine
from serving.llm.instruments import LlmInstruments
from serving.llm.limits import Admission
from serving.llm.prompts import Prompts
from serving.openai.errors import ModelNotFound
from serving.openai.service_tier import ServiceTier


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class LlmService:
    """`aliases` are further names of the model; answers carry the one that was asked for."""

    engine: Engine
    model: str
    admission: Admission
    instruments: LlmInstruments
    prompts: Prompts
    revision: str
    aliases: tuple[str, ...] = ()
    replica: str = ""
    draining: Callable[[], bool] = _never
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def names(self) -> tuple[str, ...]:
        return (self.model, *self.aliases)

    @property
    def capabilities(self) -> Capabilities:
        return self.engine.capabilities

    def check_model(self, name: str | None) -> None:
        """Raises `ModelNotFound`."""
        if name is not None and name not in self.names:
            raise ModelNotFound(name, self.model)

    def head(self, prefix: str, model: str, tier: ServiceTier = ServiceTier.DEFAULT) -> AnswerHead:
        """Of a new answer."""
        return AnswerHead(new_id(prefix), int(time.time()), model, f"fp_{self.revision}", tier.value)


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


def new_call_id() -> str:
    return new_id("call_")


def named_ignored(names: list[str]) -> Mapping[str, Any]:
    """The header that tells which fields of a request meant nothing."""
    safe = [name for name in names if name.isascii() and name.isprintable() and "," not in name][:20]
    return {"x-mesh-ignored": ", ".join(name[:64] for name in safe)} if safe else {}
