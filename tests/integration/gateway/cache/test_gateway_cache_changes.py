"""A semantic cache at a gateway: what is removed, what other revisions and sides get, what happens without it."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx

from serving._proto import records_pb2 as pb
from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient, keys
from serving.store.keys import AppKey
from serving.store.records import encode
from tests.integration.gateway.cache.cached_edge import FRANCE, Edge, asked, content, knows, says, stored, until
from tests.integration.gateway.raw_replica import raw_replica
from tests.integration.gateway.speaker import Speaker
from tests.support.llm_serving import CacheProcess, GatewayProcess, cache_config
from tests.support.waiting import aeventually, eventually


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
    await until(lambda: asked(edge, 1), what="the leader asks")
    await edge.http.delete("/v1/cache", params={"model": edge.model})
    late = asyncio.create_task(edge.said())
    await until(lambda: asked(edge, 2), what="who asks later leads, too")
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
    await until(lambda: says(edge, "Answer 1 from here."), what="the old one answers alone, as before")


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
        await until(lambda: says(edge, "Answer 1 from here."), what="what was kept answers again")
        over.set()
        counts = await asyncio.gather(*clients)
        assert failed == []
        assert all(counts)
        again.terminate()
        await asyncio.to_thread(again.wait_state, "drained")
    finally:
        over.set()
        again.end()
        eventually(lambda: again.process.poll() is not None, timeout_s=60, what="the cache ends")
