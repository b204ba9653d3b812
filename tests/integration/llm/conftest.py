"""A server over a scripted engine, and the `openai` package's clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.support.llm_server import LlmServer
from tests.support.scripted_engine import ScriptedEngine


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def server(engine: ScriptedEngine) -> Iterator[LlmServer]:
    with LlmServer(engine) as running:
        yield running


@pytest.fixture
def client(server: LlmServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=30) as made:
        yield made
