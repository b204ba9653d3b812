"""The semantic cache where clients meet it: through a gateway, with 100,000 entries, before the tiny chat model."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.llm_parts import gateway_file, is_registered, program, replica_file, wait_line
from benchmarks.openai_gateway import MODEL
from benchmarks.results import keep_results
from benchmarks.semantic_cache import ENTRIES, all_questions, fill, percentiles, scope_known, table
from benchmarks.servers import ROOT
from serving._proto import records_pb2 as pb
from serving.cache import settings
from serving.cache.embedding import cache_embedder
from serving.cache.scope import Asked, Scope
from serving.cache.store import EntryStore
from serving.errors import Internal
from serving.llm.settings import content
from serving.local.etcd import EtcdOptions, start_etcd
from serving.openai.sse import to_json
from serving.store.records import decode, encode

Tell = Callable[[str], None]
_QUICK_ENTRIES: Final = 5_000
_REQUESTS: Final = 600
_TOKENS: Final = 1  # of what is generated: what is measured is the cache, not the model
_FOLDER: Final = ROOT / "build" / "bench-semantic-cache"


def run(quick: bool, tell: Tell) -> str:
    """A table in Markdown. Raises `FailedPrecondition` when a process does not start."""
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        etcd = start_etcd(_FOLDER / "etcd", options=EtcdOptions(die_with_parent=True))
        stack.callback(etcd.wipe)
        stack.callback(etcd.stop)
        endpoints = list(etcd.config().endpoints)
        replica, cache = _configs(endpoints)
        _filled(
            cache, content(decode(pb.ReplicaConfig, replica.read_bytes())), _QUICK_ENTRIES if quick else ENTRIES, tell
        )
        address = stack.enter_context(_running(replica, cache, endpoints))
        rows = _measured(address, 100 if quick else _REQUESTS, tell)
    if not quick:
        keep_results("semantic_cache_gateway", rows)
    return table(rows)


def _configs(endpoints: list[str]) -> tuple[Path, pb.ReplicaConfig]:
    cache = pb.ReplicaConfig(
        id="cache-r1-0",
        namespace="default",
        application="chat",
        deployment="cache",
        cluster="bench",
        generation=1,
        revision=1,
        cache_dir=str(_FOLDER / "cache"),
        etcd=pb.EtcdConnection(endpoints=endpoints),
        semantic_cache=pb.SemanticCacheDeployment(max_entries=ENTRIES + 10_000),
    )
    llm = pb.LlmDeployment(model=MODEL)
    replica = replica_file(_FOLDER, endpoints, name="chat-r1-0", application="chat", llm=llm, options={})
    return replica, cache


def _filled(cache: pb.ReplicaConfig, made_by: str, entries: int, tell: Tell) -> None:
    """Entries as the cache will look for them."""
    embedder = cache_embedder()
    store = EntryStore(
        settings.folder(cache), embedder.dimension, settings.kept_for(cache, embedder.name), settings.limits(cache)
    )

    def scope(text: str) -> Scope:
        return scope_known(Asked("", MODEL, made_by, _body(text)))

    tell(f"filling the cache with {entries} entries")
    took = fill(store, embedder, entries, scope, to_json(_stored("word " * 160)))
    store.close()
    tell(f"filled in {took:.0f} s")


@contextlib.contextmanager
def _running(replica: Path, cache: pb.ReplicaConfig, endpoints: list[str]) -> Iterator[str]:
    """The gateway's address, once it knows both."""
    cache_file = _FOLDER / "cache.json"
    cache_file.write_text(encode(cache).decode())
    with contextlib.ExitStack() as stack:
        for module, file in (("serving.llm", replica), ("serving.cache", cache_file)):
            process = stack.enter_context(program(module, [str(file)], _FOLDER / f"{module}.log"))
            wait_line(process, is_registered)
        config = ["--config", str(gateway_file(_FOLDER, endpoints))]
        gateway = stack.enter_context(program("serving.gateway", config, _FOLDER / "serving.gateway.log"))
        yield str(wait_line(gateway, lambda line: "address" in line)["address"])


def _measured(address: str, requests: int, tell: Tell) -> list[dict[str, Any]]:
    client = _Client(address)
    questions = all_questions()
    known = [questions[number * 7 % len(questions)] for number in range(requests)]
    new = [f"{number} {one}" for number, one in enumerate(known)]
    steps = (
        _Step("generated, the cache is not asked", known, "", no_store=True),
        _Step("generated after a miss", new, "miss"),
        _Step("exact hit", known, "exact"),
        _Step("exact hit, as a stream", known, "exact", stream=True),
        _Step("semantic hit", [f"Please tell me: {one}" for one in known], "semantic"),
    )
    rows = []
    for step in steps:
        tell(step.name)
        for text in step.texts[: requests // 5]:
            client.ask(f"warm {text}" if step.tier == "miss" else text, step)
        asked = [client.ask(text, step) for text in step.texts]
        times = [took for took, tier in asked if tier == step.tier]
        if len(times) < requests // 4:
            raise Internal(
                f"{step.name}: only {len(times)} of {requests}; others: {Counter(tier for _, tier in asked)}"
            )
        rows.append({"request": step.name, **percentiles(times), "of all": f"{len(times)} of {requests}"})
    return rows


@dataclass(frozen=True, slots=True)
class _Step:
    """Requests of one kind; only those of which the cache says `tier` count."""

    name: str
    texts: Sequence[str]
    tier: str
    stream: bool = False
    no_store: bool = False


class _Client:
    """One connection, one request after the other."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=60)

    def ask(self, text: str, step: _Step) -> tuple[float, str]:
        """Seconds, and what the cache said."""
        body = json.dumps({**_body(text), "model": MODEL, "stream": step.stream}).encode()
        headers = {"content-type": "application/json"} | ({"cache-control": "no-store"} if step.no_store else {})
        began = time.perf_counter()
        self._connection.request("POST", "/v1/chat/completions", body, headers)
        answer = self._connection.getresponse()
        data = answer.read()
        took = time.perf_counter() - began
        if answer.status != 200:
            raise Internal(f"the gateway answered {answer.status}: {data[:300]!r}")
        return took, answer.headers.get("x-mesh-cache", "")


def _body(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": _TOKENS, "temperature": 0}


def _stored(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 12, "completion_tokens": 160, "total_tokens": 172}
    return {"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}
