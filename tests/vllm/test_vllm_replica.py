"""A replica's process with vLLM, asked by OpenAI's client; and what is left of it when it is killed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest

from tests.support.llm_serving import LlmProcess, llm_config
from tests.support.waiting import eventually

START_S = 600.0


@pytest.fixture
def replica(folder: Path, tmp_path: Path) -> Iterator[LlmProcess]:
    config = llm_config(tmp_path, weights=folder, engine="vllm")
    config.llm.options = '{"dtype": "float32", "kv_cache_memory_bytes": 67108864, "enforce_eager": true}'
    process = LlmProcess(tmp_path, config)
    try:
        yield process
    finally:
        process.end()


def test_a_replica_serves_and_leaves_nothing_behind_when_it_is_killed(replica: LlmProcess) -> None:
    replica.wait_state("ready", timeout_s=START_S)
    with openai.OpenAI(base_url=f"{replica.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        messages = [{"role": "user", "content": "What is the capital of Japan?"}]
        ask = functools.partial(client.chat.completions.create, model="tiny-chat", messages=messages, temperature=0)
        answer = ask(logprobs=True, top_logprobs=2)
        assert answer.choices[0].message.content == "The capital of Japan is Tokyo."
        assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
        stream = ask(stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in stream) == "The capital of Japan is Tokyo."
        with pytest.raises(openai.BadRequestError, match="guided_regex"):
            ask(extra_body={"guided_regex": "[a-"})
    children = psutil.Process(replica.pid).children(recursive=True)
    assert children, "vLLM computes in processes of its own"
    replica.kill()
    eventually(
        lambda: not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE],
        timeout_s=60,
        what="vLLM's processes end with the replica that was killed",
    )
