"""Traffic splits and canaries at a real gateway: which deployment, and which revision, answers which request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from serving._proto import records_pb2 as pb
from serving.errors import StoreUnavailable
from serving.gateway.splits import Splits
from serving.local.etcd import EtcdCluster
from serving.routing import Traffic
from serving.store import EtcdClient, keys
from serving.store.keys import AppKey
from serving.store.records import encode
from tests.integration.gateway.raw_replica import Answer, RawReplica, raw_replica, whole
from tests.support.llm_serving import GatewayProcess, HttpProxyProcess, http_proxy_config
from tests.support.waiting import aeventually

APP = AppKey("default", "shared")
CHAT = "/v1/chat/completions"
MODEL = "chat"


@pytest.fixture(scope="module", params=["gateway", "proxy"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[str]:
    """Of a gateway, and of the application's own HTTP proxy."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    running: GatewayProcess | HttpProxyProcess
    if request.param == "gateway":
        running = GatewayProcess(folder, etcd.config(), leave_s=0.0, hold_s=1.0)
    else:
        running = HttpProxyProcess(folder, http_proxy_config(etcd=etcd.config(), application=APP.name, hold_s=1))
        running.wait_state("ready", registered=True)
    yield running.url
    running.end()


@dataclass
class Shared:
    """Two deployments that serve one model, and how their requests are shared."""

    url: str
    store: EtcdClient
    replicas: dict[str, RawReplica] = field(default_factory=dict)
    client: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=30))
    version: int = 0

    async def share(self, *splits: pb.TrafficSplit, probe: str = "") -> None:
        """Returns when the gateway knows it: a header that only this record knows leads to `probe`'s deployment."""
        self.version += 1
        mark = f"v{self.version}"
        record = pb.TrafficRecord(
            namespace=APP.namespace, name=APP.name, splits=splits, generation=1, version=self.version
        )
        if probe:
            record.splits[0].matches.add(header="x-probe", value=mark, side=probe)
        await self.store.put(keys.traffic(APP), encode(record))
        if probe:

            async def known() -> bool:
                found = {await self.ask({"x-probe": mark}) for _ in range(6)}
                return found == {(record.splits[0].deployment and "new") or probe}

            await aeventually(known, what="the new weights are known")

    async def ask(self, headers: dict[str, str] | None = None, **more: str) -> str:
        """Which deployment answered, or the status."""
        answer = await self.client.post(self.url + CHAT, json={"model": MODEL, **more}, headers=headers)
        return answer.json()["by"] if answer.status_code == 200 else str(answer.status_code)


def by(name: str) -> Answer:
    return whole("200 OK", b'{"by": "%s"}' % name.encode())


@pytest.fixture
async def shared(etcd: EtcdCluster, url: str) -> AsyncIterator[Shared]:
    """`old` is of revision 1, `new` of revision 2."""
    async with AsyncExitStack() as stack:
        store = EtcdClient(etcd.config())
        stack.push_async_callback(store.close)
        made = Shared(url, store)
        stack.push_async_callback(made.client.aclose)
        stack.push_async_callback(store.delete, keys.traffic(APP))
        for revision, name in enumerate(("old", "new"), 1):
            made.replicas[name] = await stack.enter_async_context(
                raw_replica(
                    etcd.config(),
                    f"{name}-r{revision}-0",
                    by(name),
                    model=MODEL,
                    application=APP.name,
                    deployment=name,
                    revision=revision,
                )
            )

        async def both() -> bool:
            return {await made.ask() for _ in range(10)} == {"old", "new"}

        await aeventually(both, what="both replicas are known, and share without a record")
        yield made


def split(old: int, new: int, **more: str) -> pb.TrafficSplit:
    sides = [pb.TrafficSide(name="old", deployment="old", weight=old)]
    sides.append(pb.TrafficSide(name="new", deployment="new", weight=new))
    return pb.TrafficSplit(name="chat", model=MODEL, sides=sides, **more)


async def test_weights_keys_and_headers(shared: Shared) -> None:
    await shared.share(split(1, 0), probe="old")
    assert {await shared.ask() for _ in range(20)} == {"old"}
    record = split(50, 50, key="user")
    await shared.share(record, probe="new")
    traffic = Traffic([record])
    expected = {f"user-{n}": traffic.sides("", MODEL, lambda _, n=n: f"user-{n}", lambda: 0.0)[0][1] for n in range(24)}
    assert set(expected.values()) == {"old", "new"}
    for user, side in expected.items():
        assert await shared.ask({"user": user}) == side, "by the header"
        assert await shared.ask(user=user) == side, "by the field of OpenAI's requests"
    for talk in ("a", "b", "c", "d"):
        assert len({await shared.ask({"x-mesh-session": talk}) for _ in range(5)}) == 1, "a session has one side"
    share = Counter([await shared.ask() for _ in range(200)])
    assert min(share.values()) > 40, f"the others by chance: {share}"


async def test_a_side_that_does_not_work_is_spared(shared: Shared, etcd: EtcdCluster) -> None:
    """And one without weight gets nothing even then."""
    await shared.share(split(1, 1), probe="new")
    broken = {"x-probe": f"v{shared.version}"}
    async with raw_replica(
        etcd.config(), "third-r1-0", by("third"), model=MODEL, application=APP.name, deployment="third"
    ):
        shared.replicas["new"].answer = whole("503 Service Unavailable")
        assert [await shared.ask(broken) for _ in range(5)] == ["old"] * 5
        shared.replicas["new"].answer = whole("429 Too Many Requests", headers=b"retry-after: 1\r\n")
        await aeventually(lambda: _is(shared, broken, "429"), what="it works again, and has no room")
        shared.replicas["old"].answer = whole("503 Service Unavailable")
        answers = {await shared.ask() for _ in range(10)}
        assert "third" not in answers


async def _is(shared: Shared, headers: dict[str, str], answer: str) -> bool:
    return await shared.ask(headers) == answer


async def test_a_canarys_revisions(shared: Shared, etcd: EtcdCluster) -> None:
    """Whose new replicas get nothing but what a header sends there, until they have a weight."""
    async with raw_replica(
        etcd.config(), "old-r2-0", by("canary"), model=MODEL, application=APP.name, deployment="old", revision=2
    ):
        sides = [pb.TrafficSide(name="stable", weight=100), pb.TrafficSide(name="canary", weight=0, revisions=[2])]
        match = pb.HeaderMatch(header="x-canary", value="1", side="canary")
        canary = pb.TrafficSplit(name="canary-old", deployment="old", sides=sides, matches=[match])
        await shared.share(canary)

        async def matched() -> bool:
            return {await shared.ask({"x-canary": "1"}) for _ in range(10)} <= {"canary", "new"}

        await aeventually(matched, what="the record is known")
        assert "canary" in {await shared.ask({"x-canary": "1"}) for _ in range(30)}
        assert {await shared.ask() for _ in range(30)} == {"old", "new"}
        canary.sides[0].weight, canary.sides[1].weight = 0, 100
        await shared.share(canary)

        async def moved() -> bool:
            return {await shared.ask() for _ in range(20)} == {"canary", "new"}

        await aeventually(moved, what="all goes to the new revision")


async def test_an_application_that_leaves_while_its_record_is_read_is_no_fault_of_the_client(etcd: EtcdCluster) -> None:
    client = EtcdClient(etcd.config())
    splits = Splits(client)
    asking = asyncio.ensure_future(splits.of(AppKey(APP.namespace, "leaves")))
    await asyncio.sleep(0)
    splits.retain(())
    with pytest.raises(StoreUnavailable, match="is not served any more"):
        await asking
    await splits.close()
    await client.close()


async def test_a_record_is_known_before_it_is_asked_for(etcd: EtcdCluster) -> None:
    """What a proxy waits for before it is ready: its first request may come when etcd is away."""
    client = EtcdClient(etcd.config())
    record = pb.TrafficRecord(namespace=APP.namespace, name="early", splits=[split(0, 1)], generation=1, version=1)
    app, (member,) = AppKey(APP.namespace, "early"), etcd.members
    await client.put(keys.traffic(app), encode(record))
    splits = Splits(client)
    splits.follow((app,))
    await splits.wait_synced(app)
    await asyncio.to_thread(member.pause)
    try:
        traffic = await asyncio.wait_for(splits.of(app), 1.0)
    finally:
        await asyncio.to_thread(member.resume)
    assert traffic.sides("", MODEL, lambda _: "", lambda: 0.0) == (("chat", "new"),)
    await splits.close()
    await client.delete(keys.traffic(app))
    await client.close()


async def test_a_record_outlives_etcd(shared: Shared, etcd: EtcdCluster) -> None:
    await shared.share(split(0, 1), probe="new")
    (member,) = etcd.members
    await asyncio.to_thread(member.pause)
    try:
        assert {await shared.ask() for _ in range(20)} == {"new"}
    finally:
        await asyncio.to_thread(member.resume)
