"""A vLLM engine with the tiny chat model, one for all tests: it takes a minute to start on two CPUs."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio

from serving.llm.engine import Engine
from serving.llm.vllm_engine import VllmEngine

HERE = Path(__file__).parent
GGUF = HERE.parents[1] / "examples" / "chat" / "model" / "tiny-chat.gguf"
OPTIONS = {"dtype": "float32", "kv_cache_memory_bytes": 256 << 20, "enforce_eager": True}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    missing = pytest.mark.skip(reason="vLLM is not installed here: `make test-vllm` does it")
    for item in mine:
        if inspect.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        item.add_marker(pytest.mark.timeout(900))
        if find_spec("vllm") is None:
            item.add_marker(missing)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a Hugging Face folder."""
    from examples.chat.training.huggingface import convert

    made = tmp_path_factory.mktemp("tiny-chat")
    convert(GGUF, made)
    return made


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(folder: Path) -> AsyncIterator[Engine]:
    made = VllmEngine(folder, OPTIONS)
    await made.start(print)
    yield made
    await made.close()
