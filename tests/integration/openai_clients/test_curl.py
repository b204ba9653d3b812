"""curl at the gateway and at a replica, as a person would use it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.integration.openai_clients.conftest import Served

QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]


def curl(*arguments: str, body: str = "") -> str:
    command = ["curl", "-sS", *arguments]
    done = subprocess.run(command, input=body, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def chat(base: str, body: Any, *arguments: str) -> str:
    said = ["-H", "Content-Type: application/json", "-H", "Authorization: Bearer none", "--data-binary", "@-"]
    return curl(*arguments, *said, f"{base}/v1/chat/completions", body=json.dumps(body))


def test_plain(base: str, served: Served) -> None:
    answer = json.loads(chat(base, {"model": served.model, "messages": QUESTION, "temperature": 0}))
    assert "Tokyo" in answer["choices"][0]["message"]["content"]
    assert [one["id"] for one in json.loads(curl(f"{base}/v1/models"))["data"]] == [served.model]
    assert json.loads(curl(f"{base}/v1/models/{served.model}"))["object"] == "model"


def test_streamed(base: str, served: Served) -> None:
    told = chat(base, {"model": served.model, "messages": QUESTION, "temperature": 0, "stream": True}, "-N")
    events = [line.removeprefix("data: ") for line in told.splitlines() if line]
    assert all(line.startswith("data: ") for line in told.splitlines() if line)
    assert events[-1] == "[DONE]"
    text = "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1])
    assert "Tokyo" in text


def test_old_and_asking_ones(base: str, served: Served) -> None:
    """HTTP/1.0, which has no chunks, and `Expect: 100-continue`, which curl sends with large bodies."""
    body = {"model": served.model, "messages": QUESTION, "temperature": 0}
    assert "Tokyo" in chat(base, body, "--http1.0")
    assert "Tokyo" in chat(base, {**body, "stream": True}, "--http1.0", "-N")
    long = {**body, "metadata": {"note": "x" * 500}, "user": "y" * 2_000_000}
    assert "Tokyo" in chat(base, long, "-H", "Expect: 100-continue")


def test_errors_have_a_status_and_an_object(base: str, served: Served) -> None:
    for body, status in (({"model": "none", "messages": QUESTION}, "404"), ({"model": served.model}, "400")):
        text, _, code = chat(base, body, "-w", "\n%{http_code}").rpartition("\n")
        assert (code, json.loads(text)["error"]["type"]) == (status, "invalid_request_error")
