"""Replicas say what answers cost to a gateway that asks, and to nobody else."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serving.gateway.keys.usage import REQUEST_HEADERS, UsageReader
from serving.openai.usage_report import HEADER, tokens_in
from tests.support.llm_server import LlmServer

CALLS: Any = [
    ("chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ("completions", {"prompt": "hi"}),
    ("responses", {"input": "hi"}),
]


@pytest.mark.parametrize(("path", "body"), CALLS, ids=[path for path, _ in CALLS])
def test_what_an_answer_cost(server: LlmServer, path: str, body: dict[str, Any]) -> None:
    url, body = f"{server.base_url}/{path}", {"model": "tiny", **body}
    plain = httpx.post(url, json=body)
    told = httpx.post(url, json=body, headers=REQUEST_HEADERS)
    assert plain.status_code == 200, plain.text
    usage = plain.json()["usage"]
    assert HEADER not in plain.headers
    assert tokens_in(told.headers[HEADER].encode()) == usage["total_tokens"] > 0

    plain = httpx.post(url, json={**body, "stream": True})
    told = httpx.post(url, json={**body, "stream": True}, headers=REQUEST_HEADERS)
    assert ": mesh-usage" not in plain.text
    reader = UsageReader(1)
    reader.begin(told.status_code, told.headers)
    passed = reader.events(told.content)
    assert reader.tokens == usage["total_tokens"]
    assert b"mesh-usage" not in passed
    assert passed.count(b"data: ") == plain.content.count(b"data: ")
