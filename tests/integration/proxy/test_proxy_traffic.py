"""Traffic splits at a proxy: shares, headers, keys, sides that fail or are full, and records that change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from proxy_harness import Proxy, infer, who
from proxy_load import traffic
from proxy_registry import Registry, ready
from sdk_harness import Replica
from tritonclient.grpc import service_pb2 as pb

from serving._proto import records_pb2 as records
from serving.local.etcd import EtcdCluster, start_etcd
from tests.support.waiting import eventually

Replicas = Callable[..., list[Replica]]
StartProxy = Callable[..., Proxy]

# Six standard deviations of a binomial distribution on either side of 120: once in 500 million runs it is more.
CHANCES = 1200
A_TENTH = range(57, 184)
TO_A = (("x-side", "a"),)
TO_B = (("x-side", "b"),)


def split(first: int = 1, second: int = 1, **changes: Any) -> records.TrafficSplit:
    sides = [
        records.TrafficSide(name="a", deployment="one", weight=first),
        records.TrafficSide(name="b", deployment="two", weight=second),
    ]
    matches = [records.HeaderMatch(header="x-side", value=name, side=name) for name in "ab"]
    return records.TrafficSplit(name="ab", model="digits", sides=sides, matches=matches, **changes)


def ask(proxy: Proxy, metadata: Any = (), **options: Any) -> str:
    return who(proxy.stub.ModelInfer(infer(), timeout=60, metadata=metadata, **options))


def count(proxy: Proxy, requests: int, metadata: Any = ()) -> Counter[str]:
    return Counter(ask(proxy, metadata) for _ in range(requests))


def heard(proxy: Proxy, revision: int) -> None:
    """Waits until the proxy follows that record."""
    eventually(lambda: f'"of_revision":{revision}}}' in proxy.log.read_text(), timeout_s=90, what="the record is heard")


def share(proxy: Proxy, metric: str, side: str) -> float:
    return proxy.metric(f'mesh_proxy_split_{metric}_total{{side="{side}",split="ab"}}')


async def started(
    etcd: EtcdCluster,
    name: str,
    replicas: Replicas,
    start_proxy: StartProxy,
    *splits: records.TrafficSplit,
    **changes: Any,
) -> tuple[Registry, Proxy, Replica, Replica]:
    """A proxy of an application with two deployments, one and two, with a replica each."""
    registry = Registry(etcd, name)
    one, two = replicas("one", "two")
    await registry.put(one, deployment="one")
    await registry.put(two, deployment="two")
    await registry.split(*splits)
    proxy = registry.start(start_proxy, **changes)
    ready(proxy, 2)
    return registry, proxy, one, two


async def test_shares_follow_the_weights(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    _, proxy, *_ = await started(etcd, "shares", replicas, start_proxy, split(9, 1))
    answers = count(proxy, CHANCES)
    assert answers["two"] in A_TENTH
    assert (share(proxy, "requests", "a"), share(proxy, "requests", "b")) == (answers["one"], answers["two"])
    assert proxy.metric("mesh_proxy_split_spared_total") == 0


async def test_headers_keys_and_names_of_deployments(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    registry, proxy, *_ = await started(etcd, "headers", replicas, start_proxy, split(key="user"))
    other = registry.start(start_proxy, id="grpc-1")
    ready(other, 2)
    users = {}
    for number in range(40):
        metadata = (("user", f"user-{number}"),)
        seen = {ask(of, metadata) for of in (proxy, other, proxy, other)}
        assert len(seen) == 1, "the same user gets the same side, whichever proxy is asked"
        users[number] = seen.pop()
    assert set(users.values()) == {"one", "two"}
    first, second = (next(n for n, name in users.items() if name == of) for of in ("one", "two"))
    assert count(proxy, 20, (*TO_B, ("user", f"user-{first}"))) == {"two": 20}, "a header decides before the key"
    assert count(proxy, 20, (*TO_A, ("user", f"user-{second}"))) == {"one": 20}
    assert count(proxy, 20, (("mesh-deployment", "two"), *TO_A)) == {"two": 20}, "who names a deployment gets it"


async def test_revisions_of_a_canary(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    registry = Registry(etcd, "canary")
    old, new = replicas("old", "new")
    await registry.put(old, revision=1)
    await registry.put(new, revision=2)
    sides = [
        records.TrafficSide(name="new", weight=1000, revisions=[2]),
        records.TrafficSide(name="old", weight=9000),
    ]
    canary = records.TrafficSplit(name="canary-digits", deployment="digits", sides=sides)
    await registry.split(canary)
    proxy = registry.start(start_proxy)
    ready(proxy, 2)
    assert count(proxy, CHANCES)["new"] in A_TENTH
    canary.sides[0].weight, canary.sides[1].weight = 10000, 0
    await registry.split(canary)
    heard(proxy, 2)
    assert count(proxy, 50) == {"new": 50}


async def test_nobody_fails_when_a_side_dies(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    _, proxy, _, two = await started(etcd, "dies", replicas, start_proxy, split())
    with traffic(proxy) as load:
        load.more(50, of="one")
        load.more(50, of="two")
        two.kill()
        load.more(300, of="one")
    assert load.errors == []
    assert share(proxy, "spared", "b") > 0
    assert share(proxy, "spared", "a") == 0
    assert ask(proxy, TO_B) == "one"


async def test_a_full_side_is_waited_for(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    policy = {"max_in_flight_per_endpoint": 1}
    _, proxy, one, two = await started(etcd, "full", replicas, start_proxy, split(), policy=policy)
    one.behave("hold")
    calls = [proxy.stub.ModelInfer.future(infer(), timeout=100, metadata=TO_A) for _ in range(4)]
    eventually(lambda: proxy.metric("mesh_proxy_waiting") == 3, timeout_s=60, what="three wait")
    assert count(proxy, 10, TO_B) == {"two": 10}, "they hold up nobody of the other side"
    one.behave()
    assert [who(call.result()) for call in calls] == ["one"] * 4
    assert two.counts()["infer"] == 10


async def test_a_side_that_refuses_for_want_of_room_is_asked_again(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    _, proxy, one, two = await started(etcd, "refuses", replicas, start_proxy, split())
    one.behave("error", code="RESOURCE_EXHAUSTED", details="full")
    call = proxy.stub.ModelInfer.future(infer(), timeout=100, metadata=TO_A)
    eventually(lambda: one.counts()["infer"] >= 3, timeout_s=60, what="it is asked again")
    one.behave()
    assert who(call.result()) == "one"
    assert two.counts()["infer"] == 0


async def test_a_second_attempt_is_made_on_the_same_side(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    registry = Registry(etcd, "hedges")
    one, more, two = replicas("one", "more", "two")
    for replica, deployment in ((one, "one"), (more, "one"), (two, "two")):
        await registry.put(replica, deployment=deployment)
        replica.behave("hang")
    await registry.split(split())
    proxy = registry.start(start_proxy, policy={"hedge_after_s": 0.1})
    ready(proxy, 3)
    call = proxy.stub.ModelInfer.future(infer(), timeout=100, metadata=TO_A)
    eventually(lambda: one.counts()["running"] + more.counts()["running"] == 2, timeout_s=60, what="both are asked")
    call.cancel()
    assert two.counts()["infer"] == 0


async def test_streams_have_a_side(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    _, proxy, _, two = await started(etcd, "streams", replicas, start_proxy, split(9, 1))

    def stream(metadata: Any) -> list[str]:
        answers = proxy.stub.ModelStreamInfer(iter([infer(), infer()]), timeout=60, metadata=metadata)
        return [who(answer.infer_response) for answer in answers]

    for _ in range(5):
        assert stream(TO_B) == ["two", "two"]
        assert stream(TO_A) == ["one", "one"]
    assert share(proxy, "requests", "b") == 5
    two.kill()
    assert stream(TO_B) == ["one", "one"]
    assert share(proxy, "spared", "b") == 1


async def test_sequences_over_two_proxies(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    registry = Registry(etcd, "sequences")
    homes = replicas("one", "two", "one-more", "two-more")
    for replica in homes:
        await registry.put(replica, deployment=replica.name.partition("-")[0])
    await registry.split(split())
    proxies = [registry.start(start_proxy, id=f"grpc-{n}") for n in range(2)]
    for proxy in proxies:
        ready(proxy, 4)

    def step(proxy: Proxy, identity: int, *, start: bool = False, metadata: Any = ()) -> str:
        request = infer()
        request.parameters["sequence_id"].int64_param = identity
        request.parameters["sequence_start"].bool_param = start
        return who(proxy.stub.ModelInfer(request, timeout=60, metadata=metadata))

    seen = set()
    for identity in range(1, 41):
        home = step(proxies[identity % 2], identity, start=True)
        assert {step(proxy, identity) for proxy in proxies} == {home}, "both know its side and its home by its id"
        seen.add(home)
    assert seen == {replica.name for replica in homes}
    await registry.split(split(0, 1))
    for proxy in proxies:
        heard(proxy, 2)
    assert step(proxies[0], 1000, start=True, metadata=TO_A).startswith("one")
    assert step(proxies[0], 1000).startswith("one"), "a sequence stays where its state is"
    assert step(proxies[0], 1001, start=True).startswith("two")


async def test_nobody_fails_while_the_record_changes(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    registry, proxy, *_ = await started(etcd, "changes", replicas, start_proxy, split(1, 0))
    with traffic(proxy) as load:
        for weights in ((0, 1), (1, 1), (1, 0), (0, 1)):
            heard(proxy, (await registry.split(split(*weights))).revision)
            load.more(30, of="one" if weights[0] else "two")
        await registry.delete_traffic()
        heard(proxy, 0)
        load.more(100, of="one")
    assert load.errors == []
    assert proxy.metric("mesh_proxy_requests_total") == proxy.metric('mesh_proxy_requests_total{code="OK"}')


async def test_what_cannot_be_read_changes_nothing(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    registry, proxy, *_ = await started(etcd, "rubbish", replicas, start_proxy, split(1, 0))
    for value in (b"rubbish", b'{"splits": [{"sides": [{"weight": -1}]}]}'):
        await registry.put_traffic(value)
    eventually(lambda: "'weight'" in proxy.log.read_text(), timeout_s=60, what="it says what is wrong")
    assert count(proxy, 50) == {"one": 50}
    heard(proxy, (await registry.split(split(0, 1))).revision)
    assert count(proxy, 50) == {"two": 50}


async def test_no_request_is_sent_before_the_splits_are_known(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    registry, *_ = await started(etcd, "early", replicas, start_proxy, split(1, 0))
    for number in range(1, 8):
        proxy = registry.start(start_proxy, id=f"grpc-{number}")
        calls = [proxy.stub.ModelInfer.future(infer(), timeout=60) for _ in range(6)]
        assert {who(call.result()) for call in calls} == {"one"}


async def test_a_model_that_is_only_where_the_request_must_not_go(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    registry = Registry(etcd, "barred")
    one, two = replicas("one", "two")
    await registry.put(two, deployment="two", revision=7)
    await registry.split(split(1, 0))
    impatient = registry.start(start_proxy, holdS=0.3)
    ready(impatient, 1)
    with pytest.raises(grpc.RpcError) as caught:
        ask(impatient)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "model digits on the request's side of its traffic split (a of ab)" in caught.value.details()
    assert "two in revision 7" in caught.value.details()
    assert not impatient.stub.ModelReady(pb.ModelReadyRequest(name="digits"), timeout=60).ready
    proxy = registry.start(start_proxy, id="grpc-1")
    ready(proxy, 1)
    call = proxy.stub.ModelInfer.future(infer(), timeout=100)
    eventually(lambda: proxy.metric("mesh_proxy_waiting") == 1, timeout_s=60, what="it waits for its side")
    await registry.put(one, deployment="one")
    assert who(call.result()) == "one"
    assert two.counts()["infer"] == 0


async def test_who_waits_keeps_the_side_until_the_split_is_gone(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    registry = Registry(etcd, "waits")
    one, two = replicas("one", "two")
    await registry.put(two, deployment="two")
    await registry.split(split(1, 0))
    proxy = registry.start(start_proxy)
    ready(proxy, 1)
    call = proxy.stub.ModelInfer.future(infer(), timeout=100)
    eventually(lambda: proxy.metric("mesh_proxy_waiting") == 1, timeout_s=60, what="it waits for its side")
    await registry.delete_traffic()
    assert who(call.result()) == "two", "without a split it may go anywhere"
    one.kill()


async def test_splits_outlive_etcd(tmp_path: Path, replicas: Replicas, start_proxy: StartProxy) -> None:
    own = start_etcd(tmp_path / "own")
    try:
        registry, proxy, *_ = await started(own, "outlives", replicas, start_proxy, split(1, 0))
        own.kill()
        eventually(lambda: "does not answer" in proxy.log.read_text(), timeout_s=90, what="it sees that etcd is away")
        assert count(proxy, 50) == {"one": 50}
        own.wipe()
        own.start()
        lost = f'"prefix":"/mesh/v1/apps/default/{registry.app.name}/traffic"'
        eventually(
            lambda: any("lost data" in line and lost in line for line in proxy.log.read_text().splitlines()),
            timeout_s=90,
            what="it sees another store",
        )
        assert count(proxy, 50) == {"one": 50}, "an empty store does not end a split"
        heard(proxy, (await registry.split(split(0, 1))).revision)
        assert count(proxy, 50) == {"two": 50}, "what is written there counts"
    finally:
        own.stop()
