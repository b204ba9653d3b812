"""Clients that go away, read slowly, or send rubbish: the right error, nothing left over, nobody else disturbed."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.llm.limits import Limits
from tests.support.llm_server import LlmServer
from tests.support.scripted_engine import ScriptedEngine
from tests.support.waiting import eventually

HI = [{"role": "user", "content": "hi"}]
CANCELLED_WITHIN_S = 0.1
LONG = "x" * 3000


def post(server: LlmServer, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def written(fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def opened(server: LlmServer, **fields: Any) -> socket.socket:
    """A connection on which a chat was asked for."""
    made = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    made.sendall(written({"model": "tiny", "messages": HI, **fields}))
    return made


def works(server: LlmServer) -> bool:
    status, answer = post(server, "/v1/chat/completions", json.dumps({"model": "tiny", "messages": HI}).encode())
    return status == 200 and bool(answer["choices"])


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("choices", [1, 3])
def test_a_client_that_goes_away_stops_its_generations(
    server: LlmServer, engine: ScriptedEngine, stream: bool, choices: int
) -> None:
    engine.say = lambda _: LONG
    engine.step_s = 0.01
    took: list[float] = []
    for _ in range(5):
        engine.generations.clear()
        connection = opened(server, stream=stream, n=choices)
        if stream:
            assert connection.recv(100)
        else:
            eventually(lambda: len(engine.generations) == choices, timeout_s=60, what="the generations began")
            time.sleep(0.05)  # it is in the middle of them
        gone = time.monotonic()
        connection.close()
        running = engine.generations
        eventually(lambda: all(item.cancelled_at for item in running), timeout_s=60, what="they were cancelled")  # noqa: B023
        took.append(max(item.cancelled_at or 0 for item in engine.generations) - gone)
        eventually(lambda: server.admission.requests == 0, timeout_s=60, what="the place was given back")
    assert min(took) < CANCELLED_WITHIN_S, took  # of several: a busy machine may look away for longer
    assert server.admission.waiting_tokens == 0
    engine.step_s = 0.0
    assert works(server)


def test_a_client_that_goes_away_while_it_sends(server: LlmServer) -> None:
    for _ in range(5):
        made = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        made.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        made.close()
    assert works(server)
    assert server.admission.requests == 0


def test_a_reader_that_stops_is_given_up_and_holds_nothing() -> None:
    engine = ScriptedEngine(lambda _: LONG, tokens_each_step=1)
    with LlmServer(engine, limits=Limits(write_timeout_s=0.5)) as server:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        fields = {"model": "tiny", "messages": HI, "stream": True, "logprobs": True, "top_logprobs": 5, "n": 8}
        slow.sendall(written(fields))
        eventually(lambda: server.admission.requests == 8, timeout_s=60, what="it was let in")
        others = [works(server) for _ in range(3)]
        eventually(lambda: server.admission.requests == 0, timeout_s=60, what="its place was given back")
        assert others == [True] * 3
        assert any(item.cancelled_at for item in engine.generations)
        slow.close()


def test_a_slow_reader_gets_everything(server: LlmServer, engine: ScriptedEngine) -> None:
    engine.say = lambda _: LONG
    connection = opened(server, stream=True)
    data = b""
    while b"[DONE]" not in data:
        data += connection.recv(4096)
        time.sleep(0.0005)
    connection.close()
    assert data.count(b'"content":"x"') == len(LONG)


def test_bodies_of_50_megabytes(server: LlmServer) -> None:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x" * (50 << 20)}]}).encode()
    command = ["curl", "-sS", "-o", "-", "-w", "\n%{http_code}", "--data-binary", "@-", "-H", "Expect:"]
    for chunked in ([], ["-H", "Transfer-Encoding: chunked"]):
        done = subprocess.run(
            [*command, *chunked, f"{server.base_url}/chat/completions"], input=body, capture_output=True, timeout=60
        )
        text, _, status = done.stdout.decode().rpartition("\n")
        assert status == "413", done.stderr
        assert json.loads(text)["error"]["code"] == "request_too_large"
    assert works(server)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b'{"model": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "deeper"),
        (b'{"a":' * 100_000, "deeper"),
        (b'{"model": "tiny", "model": "tiny"}', "twice"),
        (b'{"model": "\\ud800"}', "surrogate"),
        (b'{"seed": NaN}', "NaN"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
def test_bodies_that_are_no_json(server: LlmServer, path: str, body: bytes, words: str) -> None:
    status, answer = post(server, path, body)
    assert status == 400
    assert words in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


def test_a_compressed_body_is_refused_by_name(server: LlmServer) -> None:
    status, answer = post(server, "/v1/completions", b"\x1f\x8b", **{"Content-Encoding": "gzip"})
    assert (status, answer["error"]["code"]) == (400, "invalid_encoding")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/chat/completions", 405), ("GET", "/nowhere", 404), ("POST", "/v1/nowhere", 404)],
)
def test_unknown_paths_and_methods(server: LlmServer, method: str, path: str, status: int) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, b"{}" if method == "POST" else None)
    answer = connection.getresponse()
    assert answer.status == status
    assert path in json.loads(answer.read())["error"]["message"]
    connection.close()


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
    ],
)
def test_the_engine_hears_whether_anybody_reads_an_answer_before_its_end(
    server: LlmServer, engine: ScriptedEngine, path: str, asked: dict[str, Any]
) -> None:
    """A stop text must be looked for in each token."""
    told = []
    asks = [{}, {"stream": True}] + ([] if path == "/v1/responses" else [{"stop": "x"}])
    for more in asks:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30) as client:
            answer = client.post(path, json={"model": "tiny", **asked, **more})
        assert answer.status_code == 200, answer.text
        told.append(engine.generations[-1].request.whole)
    assert told == [True, False, False][: len(asks)]


def test_the_document_holds_the_real_requests_and_answers(server: LlmServer) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/openapi.json")
    document = json.loads(connection.getresponse().read())
    schemas = document["components"]["schemas"]
    chat = document["paths"]["/v1/chat/completions"]["post"]
    reference = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert {"messages", "tools", "response_format", "top_k"} <= set(schemas[reference]["properties"])
    assert set(chat["responses"]) == {"200", "400", "404", "408", "413", "429", "500", "503", "504"}
    text = json.dumps(document)
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in schemas
    connection.request("GET", "/docs")
    page = connection.getresponse().read().decode()
    assert "/v1/chat/completions" in page
    assert "http://" not in page  # nothing is loaded from elsewhere
    assert "https://" not in page
    connection.close()


def test_tokens_there_and_back(server: LlmServer) -> None:
    asked = json.dumps({"model": "tiny", "prompt": "Grüße", "return_token_strs": True}).encode()
    status, answer = post(server, "/tokenize", asked)
    assert (status, answer["tokens"], answer["max_model_len"]) == (200, list("Grüße".encode()), 4096)
    assert (answer["count"], answer["token_strs"][0]) == (7, "G")
    status, answer = post(server, "/detokenize", json.dumps({"tokens": answer["tokens"]}).encode())
    assert answer == {"prompt": "Grüße"}
    status, answer = post(server, "/tokenize", json.dumps({"messages": HI}).encode())
    assert status == 200
    assert bytes(answer["tokens"]).endswith(b"assistant: ")
    assert post(server, "/tokenize", b"{}")[0] == 400


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "refusal", "image_url"])}, optional={"text": VALUES})
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": ROLES, "content": VALUES | st.lists(PARTS, max_size=2)},
        optional={"tool_call_id": VALUES, "tool_calls": VALUES, "name": VALUES},
    ),
    max_size=3,
)
FUNCTION = st.fixed_dictionaries({"name": st.just("f") | VALUES}, optional={"parameters": VALUES})
TOOLS = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION}), max_size=2)
NAMES = """
temperature top_p n seed stop max_tokens max_completion_tokens stream stream_options logprobs top_logprobs user input
logit_bias metadata response_format tool_choice parallel_tool_calls top_k min_p guided_regex guided_json echo store
chat_template_kwargs min_tokens ignore_eos stop_token_ids priority suffix best_of
"""
OTHER = st.sampled_from(NAMES.split())


@settings(max_examples=300)
@given(
    st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize"]),
    st.dictionaries(OTHER, VALUES, max_size=4),
    st.fixed_dictionaries({}, optional={"messages": MESSAGES, "prompt": VALUES, "tools": TOOLS, "tokens": VALUES}),
)
def test_no_body_is_a_fault_of_the_server(
    everybody: LlmServer, path: str, fields: dict[str, Any], more: dict[str, Any]
) -> None:
    body = json.dumps({"model": "tiny", "messages": HI, "prompt": "x", **more, **fields}).encode()
    connection = HTTPConnection("127.0.0.1", everybody.port, timeout=30)
    connection.request("POST", path, body)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    assert answer.status in (200, 400), data
    if answer.status == 400:
        assert json.loads(data)["error"]["message"]
    assert everybody.admission.requests == 0 or fields.get("stream")


@pytest.fixture(scope="module")
def everybody() -> Any:
    with LlmServer(ScriptedEngine(lambda _: '{"name": "f", "arguments": {}}')) as running:
        yield running
