"""OpenAI's HTTP protocol over one engine: which path leads where."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from serving.llm.engine import Engine
from serving.llm.instruments import LlmInstruments
from serving.llm.limits import Admission, Limits
from serving.llm.prompts import Prompts
from serving.llm.routes_chat import chat
from serving.llm.routes_completions import completions
from serving.llm.routes_responses import responses
from serving.llm.routes_tokens import detokenize, tokenize
from serving.llm.service import LlmService
from serving.openai.operations import LANGUAGE_MODEL
from serving.openai_http.application import build_application
from serving.openai_http.exchange import Handler

_HANDLERS: dict[str, Handler[LlmService]] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completions,
    "/v1/responses": responses,
    "/tokenize": tokenize,
    "/detokenize": detokenize,
}


def build_app(
    engine: Engine,
    model_name: str,
    limits: Limits,
    *,
    revision: str,
    registry: CollectorRegistry,
    aliases: Sequence[str] = (),
    replica: str = "",
    draining: Callable[[], bool] = lambda: False,
    instruments: LlmInstruments | None = None,
) -> FastAPI:
    """An ASGI application over a started engine, whose life stays the caller's.

    `replica` goes into the header `x-mesh-replica`; while `draining()`, new requests are answered 503.
    """
    admission = Admission(limits)
    instruments = instruments or LlmInstruments(registry)
    instruments.watch(engine.load, admission)
    service = LlmService(
        engine=engine,
        model=model_name,
        admission=admission,
        instruments=instruments,
        prompts=Prompts(engine),
        revision=revision,
        aliases=tuple(aliases),
        replica=replica,
        draining=draining,
    )
    return build_application(service, registry, LANGUAGE_MODEL, _HANDLERS, on_shutdown=service.prompts.close)
