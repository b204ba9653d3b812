"""What all routes of one model's replica share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.errors import Code
from serving.llm.answers import AnswerHead
from serving.llm.engine import Capabilities, Engine
from serving.llm.instruments import LlmInstruments
from serving.llm.limits import Admission
from serving.llm.prompts import Prompts
from serving.openai.service_tier import ServiceTier
from serving.openai_http.service import check_model


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
        check_model(self, name)

    @property
    def context_tokens(self) -> int:
        return self.capabilities.context_tokens

    @property
    def max_body_bytes(self) -> int:
        return self.admission.limits.max_body_bytes

    @property
    def write_timeout_s(self) -> float:
        return self.admission.limits.write_timeout_s

    @property
    def failure(self) -> str:
        return f"the engine failed: {self.engine.failure}" if self.engine.failure else ""

    def count(self, method: str, code: Code, seconds: float, *, batch: bool = False) -> None:
        self.instruments.count(method, code, seconds, batch=batch)

    def head(self, prefix: str, model: str, tier: ServiceTier = ServiceTier.DEFAULT) -> AnswerHead:
        """Of a new answer."""
        return AnswerHead(new_id(prefix), int(time.time()), model, f"fp_{self.revision}", tier.value)


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


def new_call_id() -> str:
    return new_id("call_")
