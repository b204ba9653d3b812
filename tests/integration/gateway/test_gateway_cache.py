"""A real gateway and a real semantic cache in front of replicas that say how often they are asked."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serving._proto import records_pb2 as pb
from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd
from serving.store import EtcdClient, keys
from serving.store.keys import AppKey
from serving.store.records import encode
from tests.integration.gateway.raw_replica import raw_replica
from tests.integration.gateway.speaker import USAGE, Speaker
from tests.support.llm_serving import CacheProcess, GatewayProcess, cache_config
from tests.support.waiting import aeventually, eventually

FRANCE = "What is the capital of France?"
TELL_ME = "can you tell me the capital of France"
CONTENT = "weights 1"


class Edge:
    """What one test asks: a model of its own, behind the shared gateway and cache."""

    def __init__(self, gateway: GatewayProcess, model: str, speaker: Speaker) -> None:
        self.model = model
        self.speaker = speaker
        self.url = gateway.url
        self.http = httpx.AsyncClient(base_url=gateway.url, timeout=30)
        self.openai = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=30)

    async def ask(self, text: str = FRANCE, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], **more}
        return await self.http.post("/v1/chat/completions", json=body, headers=headers)

    async def said(self, text: str = FRANCE, headers: dict[str, str] | None = None, **more: Any) -> tuple[str, str]:
        """What the cache said (empty: it was not asked), and the answer."""
        answer = await self.ask(text, headers, **more)
        assert answer.status_code == 200, answer.text
        return answer.headers.get("x-mesh-cache", ""), content(answer)

    async def stream(self, text: str = FRANCE, **more: Any) -> tuple[str, list[Any]]:
        """Through OpenAI's client: the text, and the chunks."""
        made = await self.openai.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": text}], stream=True, **more
        )
        chunks = [chunk async for chunk in made]
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks

    async def close(self) -> None:
        await self.http.aclose()
        await self.openai.close()


def content(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    running = start_etcd(tmp_path_factory.mktemp("etcd"), options=EtcdOptions(die_with_parent=True))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[GatewayProcess]:
    running = GatewayProcess(
        tmp_path_factory.mktemp("gateway"), etcd.config(), leave_s=0.0, cache_timeout_s=5.0, hold_s=10.0
    )
    yield running
    running.end()


@pytest.fixture(scope="module")
def cache(folder: Path, etcd: EtcdCluster) -> Iterator[CacheProcess]:
    running = CacheProcess(folder, cache_config(folder, etcd=etcd.config(), application="raw"))
    running.wait_state("ready", registered=True)
    yield running
    running.end()


@pytest.fixture
async def edge(gateway: GatewayProcess, etcd: EtcdCluster, cache: CacheProcess) -> AsyncIterator[Edge]:
    assert cache.report.registered
    speaker, model = Speaker(), f"m{uuid.uuid4().hex[:8]}"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(raw_replica(etcd.config(), f"{model}-0", speaker, model=model, content=CONTENT))
        made = Edge(gateway, model, speaker)
        stack.push_async_callback(made.close)
        await until(lambda: knows(made), what="the gateway knows model and cache")
        yield made
        speaker.hold.set()


async def knows(edge: Edge) -> bool:
    """Answers of its own tenant are removed only by a gateway that knows the model, and by a cache."""
    return (await edge.http.delete("/v1/cache", params={"model": edge.model})).status_code == 200


async def until(look: Callable[[], Any], *, what: str, timeout_s: float = 30) -> None:
    end = asyncio.get_running_loop().time() + timeout_s
    while not await look():
        assert asyncio.get_running_loop().time() < end, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


async def stored(edge: Edge, text: str = FRANCE, **more: Any) -> None:
    """Answers are put after their clients have them."""
    await until(lambda: _is_stored(edge, text, more), what="the answer is stored")


async def _is_stored(edge: Edge, text: str, more: dict[str, Any]) -> bool:
    answer = await edge.ask(text, {"cache-control": "only-if-cached"}, **more)
    assert answer.status_code in (200, 504), answer.text
    return answer.status_code == 200


async def test_the_same_and_nearly_the_same_question(edge: Edge) -> None:
    assert await edge.said() == ("miss", "Answer 1 from here.")
    await stored(edge)
    exact, near = await edge.ask(), await edge.ask(TELL_ME)
    assert content(exact) == content(near) == "Answer 1 from here."
    assert (exact.headers["x-mesh-cache"], exact.headers["x-mesh-cache-similarity"]) == ("exact", "1.0000")
    assert near.headers["x-mesh-cache"] == "semantic"
    assert 0.8 <= float(near.headers["x-mesh-cache-similarity"]) < 1
    assert exact.json()["usage"] == USAGE
    assert exact.json()["id"] != near.json()["id"]
    assert exact.headers["x-mesh-cache-scope"] == near.headers["x-mesh-cache-scope"]
    assert (await edge.said("What is the capital of Germany?"))[0] == "miss"
    assert edge.speaker.answers == 2


async def test_openais_client_gets_streams_from_whole_answers_and_the_other_way_round(edge: Edge) -> None:
    assert (await edge.said())[0] == "miss"
    await stored(edge)
    text, chunks = await edge.stream(stream_options={"include_usage": True})
    assert text == "Answer 1 from here."
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 10
    assert len({chunk.id for chunk in chunks}) == 1

    question = "Who wrote Hamlet?"
    first, _ = await edge.stream(question, stream_options={"include_usage": True})
    await stored(edge, question)
    again = await edge.openai.chat.completions.create(
        model=edge.model, messages=[{"role": "user", "content": question}]
    )
    assert again.choices[0].message.content == first == "Answer 2 from here."
    assert again.usage is not None
    assert again.usage.completion_tokens == 3
    assert edge.speaker.answers == 2


async def test_a_stream_without_usage_answers_only_those_who_do_not_want_it(edge: Edge) -> None:
    first, _ = await edge.stream()
    await stored(edge, stream=True)
    assert (await edge.stream())[0] == first
    assert await edge.said() == ("miss", "Answer 2 from here.")
    await stored(edge)
    assert (await edge.stream())[0] == "Answer 2 from here."


async def test_nothing_crosses_scopes(edge: Edge, etcd: EtcdCluster) -> None:
    await edge.said()
    await stored(edge)
    system = [{"role": "system", "content": "Answer in French."}, {"role": "user", "content": FRANCE}]
    others: list[dict[str, Any]] = [
        {"messages": system}, {"temperature": 0.2}, {"max_tokens": 5}, {"seed": 1}, {"stop": ["x"]},
        {"response_format": {"type": "json_object"}}, {"logprobs": True}, {"unheard_of": 1},
    ]  # fmt: skip
    for number, other in enumerate(others):
        assert await edge.said(**other) == ("miss", f"Answer {number + 2} from here.")
    speaker, model = Speaker(), f"{edge.model}-other"
    async with raw_replica(etcd.config(), model, speaker, model=model, content=CONTENT):
        await until(lambda: knows_name(edge, model), what="the other model")
        assert (await edge.said(model=model))[0] == "miss"
    assert await edge.said() == ("exact", "Answer 1 from here.")


async def knows_name(edge: Edge, model: str) -> bool:
    return (await edge.http.get(f"/v1/models/{model}")).status_code == 200


async def test_what_is_never_cached_is_not_asked_for(edge: Edge) -> None:
    for other in ({"n": 2}, {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}):
        assert [(await edge.said(**other))[0] for _ in range(2)] == ["", ""]
    assert (await edge.said(temperature=1.5))[0] == ""
    assert (await edge.said("x" * 300_000))[0] == ""
    assert edge.speaker.answers == 6


async def test_cache_control(edge: Edge) -> None:
    none = await edge.ask(headers={"cache-control": "only-if-cached"})
    assert (none.status_code, none.json()["error"]["code"]) == (504, "not_cached")
    assert edge.speaker.answers == 0
    assert await edge.said(headers={"cache-control": "no-store"}) == ("", "Answer 1 from here.")
    assert await edge.said() == ("miss", "Answer 2 from here.")
    await stored(edge)
    assert (await edge.said(headers={"cache-control": "max-age=100"}))[0] == "exact"
    assert await edge.said(headers={"cache-control": "no-store"}) == ("", "Answer 3 from here.")
    assert await edge.said() == ("exact", "Answer 2 from here.")
    assert await edge.said(headers={"cache-control": "no-cache"}) == ("miss", "Answer 4 from here.")
    await until(lambda: _says(edge, "Answer 4 from here."), what="the new answer is stored")
    assert (await edge.said(headers={"cache-control": "max-age=0"}))[0] == "miss"


async def _says(edge: Edge, text: str) -> bool:
    return await edge.said() == ("exact", text)


async def test_bad_requests_are_the_replicas_business_and_bad_tags_ours(edge: Edge) -> None:
    await edge.said()
    await stored(edge)
    assert (await edge.said(user=5))[0] == ""  # this replica does not mind
    wrong = await edge.ask(headers={"x-mesh-cache-tags": ",".join(map(str, range(17)))})
    assert wrong.status_code == 400
    assert "16 tags" in wrong.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_thirty_same_questions_cause_one_generation(edge: Edge, stream: bool) -> None:
    edge.speaker.hold.clear()
    asking = [asyncio.create_task(edge.stream() if stream else edge.said()) for _ in range(30)]
    await until(lambda: _asked(edge, 1), what="the leader asks")
    await asyncio.sleep(0.2)
    edge.speaker.hold.set()
    answers = await asyncio.gather(*asking)
    assert edge.speaker.answers == 1
    texts = {answer[0] if stream else answer[1] for answer in answers}
    assert texts == {"Answer 1 from here."}


async def _asked(edge: Edge, count: int) -> bool:
    return edge.speaker.answers >= count


async def test_followers_of_a_cut_answer_generate_their_own(edge: Edge) -> None:
    edge.speaker.finish = "length"
    edge.speaker.hold.clear()
    asking = [asyncio.create_task(edge.said()) for _ in range(5)]
    await until(lambda: _asked(edge, 1), what="the leader asks")
    edge.speaker.hold.set()
    answers = await asyncio.gather(*asking)
    assert len({text for _, text in answers}) == edge.speaker.answers
    assert not await _is_stored(edge, FRANCE, {})


async def test_a_leader_that_leaves_hands_its_turn_on(edge: Edge) -> None:
    edge.speaker.hold.clear()
    leader = asyncio.create_task(edge.said())
    await until(lambda: _asked(edge, 1), what="the leader asks")
    followers = [asyncio.create_task(edge.said()) for _ in range(5)]
    await asyncio.sleep(0.2)
    leader.cancel()
    await until(lambda: _asked(edge, 2), what="another one leads")
    edge.speaker.hold.set()
    answers = await asyncio.gather(*followers)
    assert edge.speaker.answers == 2
    assert {text for _, text in answers} == {"Answer 2 from here."}


async def test_a_stream_that_breaks_is_not_kept(edge: Edge) -> None:
    edge.speaker.breaks = True
    body = {"model": edge.model, "messages": [{"role": "user", "content": FRANCE}], "stream": True}
    broken = await edge.http.post("/v1/chat/completions", json=body)
    assert "broke off" in broken.text
    assert "[DONE]" not in broken.text
    assert not await _is_stored(edge, FRANCE, {"stream": True})
    edge.speaker.breaks = False
    text, _ = await edge.stream()
    assert text == "Answer 2 from here."


async def test_a_client_that_leaves_in_the_middle_keeps_nothing(edge: Edge) -> None:
    edge.speaker.hold.clear()
    before = await _cancelled(edge)
    body = {"model": edge.model, "messages": [{"role": "user", "content": FRANCE}], "stream": True}
    async with edge.http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if "Answer" in line:
                break

    async def noticed() -> bool:
        return await _cancelled(edge) > before

    await aeventually(noticed, what="the gateway hears that the client has gone")
    edge.speaker.hold.set()
    assert not await _is_stored(edge, FRANCE, {"stream": True})
    assert (await edge.stream())[0] == "Answer 2 from here."


async def _cancelled(edge: Edge) -> float:
    lines = (await edge.http.get("/metrics")).text.splitlines()
    return float(next(line for line in lines if line.startswith("mesh_gateway_cancelled_total ")).split()[1])


async def test_removal(edge: Edge) -> None:
    async def keep(text: str, **more: Any) -> httpx.Response:
        await edge.said(text, **more)
        await stored(edge, text)
        return await edge.ask(text)

    async def removed(**by: str) -> int:
        answer = await edge.http.delete("/v1/cache", params=by)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["removed"])

    first = await keep(FRANCE, headers={"x-mesh-cache-tags": f"geo-{edge.model}, other"})
    await keep("Who wrote Hamlet?")
    assert await removed(entry=first.headers["x-mesh-cache-entry"]) == 1
    assert (await edge.said())[0] == "miss"
    await stored(edge)
    assert await removed(scope=first.headers["x-mesh-cache-scope"]) == 2
    await keep(FRANCE, headers={"x-mesh-cache-tags": f"geo-{edge.model}"})
    assert await removed(tag=f"geo-{edge.model}") == 1
    await keep(FRANCE)
    assert await removed(model=edge.model) == 1
    assert await removed(model=edge.model) == 0
    for wrong in ({"entry": "zz"}, {"colour": "red"}, {"tenant": "somebody"}):
        answer = await edge.http.delete("/v1/cache", params=wrong)
        assert answer.status_code == 400, answer.text


async def test_what_is_generated_while_its_like_is_removed_is_not_kept(edge: Edge) -> None:
    edge.speaker.hold.clear()
    early = asyncio.create_task(edge.said())
    await until(lambda: _asked(edge, 1), what="the leader asks")
    await edge.http.delete("/v1/cache", params={"model": edge.model})
    late = asyncio.create_task(edge.said())
    await until(lambda: _asked(edge, 2), what="who asks later leads, too")
    edge.speaker.hold.set()
    assert {await early, await late} == {("miss", "Answer 1 from here."), ("miss", "Answer 2 from here.")}
    await stored(edge)
    assert await edge.said() == ("exact", "Answer 2 from here.")


async def test_another_revision_has_other_answers(edge: Edge, etcd: EtcdCluster) -> None:
    """And what an old replica answers after the new one came is not kept."""
    await edge.said()
    await stored(edge)
    newer = Speaker("there")
    name = f"{edge.model}-1"
    async with raw_replica(etcd.config(), name, newer, model=edge.model, content="weights 2", revision=2):
        await until(lambda: _misses(edge), what="the gateway knows the new replica")
        await until(lambda: _hits(edge), what="an answer of the new one is stored")
        stored_texts = {text for tier, text in [await edge.said() for _ in range(10)] if tier == "exact"}
        assert len(stored_texts) == 1
        assert stored_texts.pop().endswith("from there.")
        other = [await edge.said("Who wrote Hamlet?") for _ in range(40)]
        assert all(text.endswith("from there.") for tier, text in other if tier == "exact"), other
    await until(lambda: _says(edge, "Answer 1 from here."), what="the old one answers alone, as before")


async def _misses(edge: Edge) -> bool:
    return (await edge.said())[0] != "exact"


async def test_stored_answers_are_those_of_the_requests_side(
    gateway: GatewayProcess, etcd: EtcdCluster, cache: CacheProcess
) -> None:
    """Where an application tries other weights on a part of its requests, the others' answers are not given to it."""
    assert cache.report.registered
    model, app = f"m{uuid.uuid4().hex[:8]}", AppKey("default", "raw")
    sides = [pb.TrafficSide(name=name, deployment=name, weight=1) for name in ("old", "new")]
    matches = [pb.HeaderMatch(header="x-side", value=name, side=name) for name in ("old", "new")]
    split = pb.TrafficSplit(name=model, model=model, sides=sides, matches=matches)
    async with AsyncExitStack() as stack:
        store = EtcdClient(etcd.config())
        stack.push_async_callback(store.close)
        record = pb.TrafficRecord(namespace=app.namespace, name=app.name, splits=[split], generation=1, version=1)
        await store.put(keys.traffic(app), encode(record))
        stack.push_async_callback(store.delete, keys.traffic(app))
        speakers = {name: Speaker(name) for name in ("old", "new")}
        for name, speaker in speakers.items():
            replica = raw_replica(
                etcd.config(), f"{model}-{name}", speaker, model=model, deployment=name, content=f"weights {name}"
            )
            await stack.enter_async_context(replica)
        edge = Edge(gateway, model, speakers["new"])
        stack.push_async_callback(edge.close)

        async def split_is_known() -> bool:
            fresh = {"cache-control": "no-store"}
            texts = [content(await edge.ask("?", {**fresh, "x-side": name})) for name in ("old", "new") * 3]
            return [text.split()[-1] for text in texts] == ["old.", "new."] * 3

        await aeventually(split_is_known, what="the split is known")
        for name in ("old", "new"):
            said, text = await edge.said(headers={"x-side": name})
            assert (said, text.split()[-1]) == ("miss", f"{name}.")
            await until(lambda: _has(edge, name, text), what="its answer is stored")  # noqa: B023 - awaited here


async def _has(edge: Edge, side: str, text: str) -> bool:
    return await edge.said(headers={"x-side": side}) == ("exact", text)


async def test_numbers(edge: Edge, cache: CacheProcess) -> None:
    await edge.said()
    await stored(edge)
    await edge.said()
    numbers = (await edge.http.get(f"{cache.url}/metrics")).text
    for name in ('mesh_cache_hits_total{tier="exact"}', "mesh_cache_stored_total", "mesh_cache_entries"):
        (line,) = [line for line in numbers.splitlines() if line.startswith(name)]
        assert float(line.rsplit(" ", 1)[1]) >= 1, line
    told = (await edge.http.get(f"{cache.url}/v1/cache")).json()
    assert told["entries"] >= 1
    assert told["generating"] == 0
    assert 'mesh_gateway_cache_total{result="exact"}' in (await edge.http.get("/metrics")).text
    assert (await edge.http.post(f"{cache.url}/v1/cache")).status_code == 405
    assert (await edge.http.put(f"{cache.url}/v1/cache/tickets/none", content=b"{}")).status_code == 404


async def test_a_cache_that_stands_still_costs_hits_only(
    tmp_path: Path, etcd: EtcdCluster, cache: CacheProcess, edge: Edge
) -> None:
    gateway = GatewayProcess(tmp_path, etcd.config(), name="quick", leave_s=0.0, cache_timeout_s=0.3)
    quick = Edge(gateway, edge.model, edge.speaker)
    try:
        await until(lambda: knows(quick), what="the second gateway knows the cache")
        os.kill(cache.pid, signal.SIGSTOP)
        try:
            answers = [(await quick.said())[0] for _ in range(20)]
        finally:
            os.kill(cache.pid, signal.SIGCONT)
        assert answers == [""] * 20
        await until(lambda: _hits(quick), what="the cache is asked again")
    finally:
        await quick.close()
        gateway.end()


async def _hits(edge: Edge) -> bool:
    return (await edge.said())[0] == "exact"


async def test_a_killed_cache_fails_no_request_and_keeps_its_answers(
    folder: Path, etcd: EtcdCluster, cache: CacheProcess, edge: Edge
) -> None:
    """The last test: the cache that comes back is another process."""
    await edge.said()
    await stored(edge)
    over = asyncio.Event()
    failed: list[str] = []

    async def client(number: int) -> int:
        count = 0
        while not over.is_set():
            if number % 2:
                answer = await edge.ask(f"{FRANCE} {count % 7}")
                failed.extend([answer.text] if answer.status_code != 200 else [])
            else:
                text, _ = await edge.stream(f"What is number {count % 5} of {number}?")
                failed.extend([text] if not text.endswith("from here.") else [])
            count += 1
        return count

    clients = [asyncio.create_task(client(number)) for number in range(6)]
    await asyncio.sleep(0.5)
    cache.kill()
    refused = await edge.http.delete("/v1/cache", params={"model": edge.model})
    assert refused.status_code == 503, refused.text
    await asyncio.sleep(0.5)
    again = CacheProcess(folder, cache_config(folder, etcd=etcd.config(), application="raw"))
    try:
        await asyncio.to_thread(again.wait_state, "ready", registered=True)
        await until(lambda: _says(edge, "Answer 1 from here."), what="what was kept answers again")
        over.set()
        counts = await asyncio.gather(*clients)
        assert failed == []
        assert all(counts)
        again.terminate()
        await asyncio.to_thread(again.wait_state, "drained")
    finally:
        over.set()
        again.end()
        eventually(lambda: again.process.poll() is not None, timeout_s=10, what="the cache ends")
