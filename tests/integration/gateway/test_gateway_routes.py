"""Names at a real gateway that lead to models of several applications: shares, sessions, fallbacks."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from serving._proto import records_pb2 as pb
from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient, keys
from serving.store.records import encode
from tests.integration.gateway.raw_replica import Answer, RawReplica, raw_replica, reset, whole
from tests.support.llm_serving import GatewayProcess
from tests.support.waiting import aeventually

FULL = whole("429 Too Many Requests", b'{"error": {"code": "full"}}', b"retry-after: 7\r\n")
LEAVES = whole("503 Service Unavailable", b'{"error": {}}')
BROKEN = whole("500 Internal Server Error", b'{"error": {"code": "mine"}}')


async def tell(replica: RawReplica, body: bytes, writer: asyncio.StreamWriter) -> None:
    """Answers with the model's name as the replica was asked for it, and its own."""
    said = json.dumps({"model": json.loads(body)["model"], "by": replica.name}).encode()
    await whole("200 OK", said)(replica, body, writer)


class Edge:
    """A gateway, models behind it, and one route of a name that no other test uses."""

    def __init__(self, gateway: GatewayProcess, store: EtcdClient, etcd: EtcdCluster, stack: AsyncExitStack) -> None:
        self.gateway = gateway
        self.route = f"route-{uuid.uuid4().hex[:8]}"
        self._store = store
        self._etcd = etcd
        self._stack = stack
        self._models: dict[str, AsyncExitStack] = {}

    async def model(self, application: str, *answers: Answer, model: str = "m", cluster: str = "east") -> str:
        """A model of an application with one replica for each answer; its full name."""
        application = f"{application}-{self.route}"
        name = f"default/{application}/{model}"
        self._models[name] = await self._stack.enter_async_context(AsyncExitStack())
        for index, answer in enumerate(answers):
            await self._models[name].enter_async_context(
                raw_replica(
                    self._etcd.config(),
                    f"{application}-{index}",
                    answer,
                    model=model,
                    application=application,
                    cluster=cluster,
                )
            )
        return name

    async def set(self, targets: Mapping[str, int], *fallbacks: str, version: int = 1) -> None:
        """Stores the route, and waits until the gateway knows all of it."""
        record = pb.RouteRecord(
            name=self.route,
            targets=[pb.RouteTarget(model=model, weight=weight) for model, weight in targets.items()],
            fallbacks=fallbacks,
            version=version,
        )
        await self._store.put(keys.route(self.route), encode(record))

    async def lose(self, model: str) -> None:
        """Its replicas end, and with them their endpoints."""
        await self._models[model].aclose()

    async def delete(self) -> None:
        await self._store.delete(keys.route(self.route))

    async def knows(self, *ids: str) -> None:
        """Waits until the gateway offers these: routes, and models by their full names."""

        async def known() -> bool:
            async with httpx.AsyncClient(timeout=30) as client:
                asked = [client.get(f"{self.gateway.url}/v1/models/{one}") for one in ids]
                return {answer.status_code for answer in await asyncio.gather(*asked)} == {200}

        await aeventually(known, what=f"the gateway offers {ids}")

    async def listed(self) -> dict[str, dict[str, Any]]:
        async with httpx.AsyncClient(timeout=30) as client:
            data = (await client.get(f"{self.gateway.url}/v1/models")).json()["data"]
        return {entry["id"]: entry for entry in data}

    async def ask(self, name: str = "", **fields: Any) -> httpx.Response:
        headers = {"x-mesh-session": fields.pop("session")} if "session" in fields else {}
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.post(
                f"{self.gateway.url}/v1/chat/completions",
                json={"model": name or self.route, **fields},
                headers=headers,
            )

    async def metric(self, name: str, **labels: str) -> float:
        async with httpx.AsyncClient(timeout=30) as client:
            page = (await client.get(f"{self.gateway.url}/metrics")).text
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in page.splitlines() if line.startswith(name) and all(one in line for one in wanted)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[GatewayProcess]:
    running = GatewayProcess(tmp_path_factory.mktemp("gateway"), etcd.config(), leave_s=0.0, hold_s=1.0)
    yield running
    running.end()


@pytest.fixture
async def edge(gateway: GatewayProcess, etcd: EtcdCluster) -> AsyncIterator[Edge]:
    async with AsyncExitStack() as stack:
        store = EtcdClient(etcd.config())
        stack.push_async_callback(store.close)
        yield Edge(gateway, store, etcd, stack)


async def test_an_alias_leads_to_the_model_of_another_name(edge: Edge) -> None:
    model = await edge.model("chat", tell, model="tiny")
    await edge.set({model: 100})
    await edge.knows(edge.route)
    answer = await edge.ask()
    assert answer.json()["model"] == "tiny"
    assert answer.headers["x-mesh-model"] == model
    assert (await edge.listed())[edge.route]["root"] == model
    assert await edge.metric("mesh_gateway_route_requests_total", route=edge.route, model=model) == 1
    await edge.delete()

    async def unknown() -> bool:
        return (await edge.ask()).status_code == 404

    await aeventually(unknown, what="the route is gone")


async def test_shares_and_sessions(edge: Edge) -> None:
    first, second = await edge.model("a", tell), await edge.model("b", tell)
    await edge.set({first: 75, second: 25})
    await edge.knows(edge.route, first, second)
    by = [(await edge.ask()).headers["x-mesh-model"] for _ in range(200)]
    assert 20 <= by.count(second) <= 80, by.count(second)
    for session in ({"session": "s-1"}, {"user": "ann"}, {"prompt_cache_key": "k"}):
        told = {(await edge.ask(**dict(session))).headers["x-mesh-model"] for _ in range(10)}
        assert len(told) == 1, session
    spread = {(await edge.ask(session=f"s-{n}")).headers["x-mesh-model"] for n in range(40)}
    assert spread == {first, second}


@pytest.mark.parametrize("bad", [FULL, LEAVES, reset], ids=["full", "leaves", "resets"])
async def test_a_fallback_answers(edge: Edge, bad: Answer) -> None:
    """And is asked for its own model's name."""
    main, spare = await edge.model("main", bad, model="large"), await edge.model("spare", tell, model="small")
    await edge.set({main: 1}, spare)
    await edge.knows(edge.route, main, spare)
    for _ in range(20):
        answer = await edge.ask()
        assert (answer.status_code, answer.headers["x-mesh-model"]) == (200, spare), answer.text
        assert answer.json()["model"] == "small"
    assert await edge.metric("mesh_gateway_route_fallbacks_total", route=edge.route, model=main) == 20


async def test_many_fallbacks_cost_no_retries(edge: Edge) -> None:
    """More than a model's budget would pay for: one that cannot answer does not end what another could."""
    main, spare = await edge.model("main", LEAVES, LEAVES), await edge.model("spare", tell)
    await edge.set({main: 1}, spare)
    await edge.knows(edge.route, main, spare)
    async with httpx.AsyncClient(timeout=60) as client:
        for _ in range(7):
            asked = [
                client.post(f"{edge.gateway.url}/v1/chat/completions", json={"model": edge.route}) for _ in range(40)
            ]
            assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


async def test_models_that_are_not_there_are_passed_over(edge: Edge) -> None:
    gone, spare = "default/nowhere/m", await edge.model("spare", tell)
    await edge.set({gone: 1}, "default/nobody/m", spare)
    await edge.knows(edge.route)
    assert (await edge.ask()).headers["x-mesh-model"] == spare
    assert await edge.metric("mesh_gateway_route_fallbacks_total", route=edge.route, reason="absent") == 2


async def test_other_targets_answer_for_one_that_is_gone(edge: Edge) -> None:
    spare = await edge.model("spare", tell)
    await edge.set({"default/nowhere/m": 99, spare: 1})
    await edge.knows(edge.route)
    assert {(await edge.ask()).headers["x-mesh-model"] for _ in range(10)} == {spare}


async def test_when_all_are_full_the_last_one_says_so(edge: Edge) -> None:
    main, spare = await edge.model("main", FULL), await edge.model("spare", FULL)
    await edge.set({main: 1}, spare)
    await edge.knows(edge.route, main, spare)
    answer = await edge.ask()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.headers["x-mesh-model"] == spare


async def test_a_failure_of_the_request_itself_is_the_clients(edge: Edge) -> None:
    main, spare = await edge.model("main", BROKEN), await edge.model("spare", tell)
    await edge.set({main: 1}, spare)
    await edge.knows(edge.route, main, spare)
    answer = await edge.ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "mine")


async def test_a_request_that_breaks_replicas_does_not_go_round(edge: Edge) -> None:
    models = [await edge.model(name, reset) for name in ("a", "b", "c", "d")]
    await edge.set({models[0]: 1}, *models[1:])
    await edge.knows(edge.route, *models)
    assert (await edge.ask()).status_code == 503
    assert await edge.metric("mesh_gateway_route_fallbacks_total", route=edge.route, reason="failed") == 1


async def test_nobody_is_there(edge: Edge) -> None:
    main = await edge.model("main", tell)
    await edge.set({main: 1})
    await edge.knows(edge.route)
    await edge.set({"default/nowhere/m": 1}, "default/nobody/m", version=2)

    async def unlisted() -> bool:
        return edge.route not in await edge.listed()

    await aeventually(unlisted, what="a route that leads nowhere is not offered")
    answer = await edge.ask()
    assert answer.status_code == 503
    assert "`default/nowhere/m`, `default/nobody/m`" in answer.json()["error"]["message"]


async def test_a_route_stands_before_a_model_of_its_name(edge: Edge) -> None:
    """That model is then offered by its full name, which no route can hide."""
    own, other = await edge.model("own", tell, model=edge.route), await edge.model("other", tell)
    await edge.knows(edge.route)
    assert (await edge.ask()).headers["x-mesh-model"] == own
    await edge.set({other: 1})

    async def listed() -> bool:
        return own in await edge.listed()

    await aeventually(listed, what="the model is offered by its full name")
    assert (await edge.ask()).headers["x-mesh-model"] == other
    assert (await edge.ask(own)).headers["x-mesh-model"] == own


async def test_a_fallback_on_another_cluster(edge: Edge) -> None:
    """The same model as another application of another cluster; it takes over when the first one's endpoints go."""
    east, west = await edge.model("a", tell), await edge.model("b", tell, cluster="west")
    await edge.set({east: 1}, west)
    await edge.knows(edge.route, east, west)
    assert (await edge.ask()).headers["x-mesh-model"] == east
    await edge.lose(east)

    async def moved() -> bool:
        return (await edge.ask()).headers["x-mesh-model"] == west

    await aeventually(moved, what="the fallback answers")
