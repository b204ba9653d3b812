"""Copies of requests for a deployment that nobody depends on: whatever becomes of them, no client sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy_harness import Proxy, infer, who
from proxy_load import traffic
from proxy_registry import Registry, ready
from sdk_harness import Replica

from serving._proto import records_pb2 as records
from serving.local.etcd import EtcdCluster
from tests.support.waiting import eventually

Replicas = Callable[..., list[Replica]]
StartProxy = Callable[..., Proxy]

MAX_COPIES = 100  # cpp_ext/proxy/shadow.h


async def started(
    etcd: EtcdCluster, name: str, replicas: Replicas, start_proxy: StartProxy, percent: float = 100.0
) -> tuple[Registry, Proxy, Replica, Replica]:
    """A proxy whose requests go to deployment one, and copies of them to deployment two."""
    registry = Registry(etcd, name)
    one, two = replicas("one", "two")
    await registry.put(one, deployment="one")
    await registry.put(two, deployment="two")
    side = records.TrafficSide(name="a", deployment="one", weight=1)
    shadow = records.Shadow(deployment="two", percent=percent)
    await registry.split(records.TrafficSplit(name="copied", model="digits", sides=[side], shadow=shadow))
    proxy = registry.start(start_proxy)
    ready(proxy, 2)
    return registry, proxy, one, two


def ask(proxy: Proxy, requests: int, request: Any = None, **options: Any) -> None:
    """Every one is answered by deployment one."""
    for _ in range(requests):
        assert who(proxy.stub.ModelInfer(request or infer(), timeout=60, **options)) == "one"


def copies(proxy: Proxy, outcome: str, labels: str = "") -> float:
    return proxy.metric(f"mesh_proxy_copies_{outcome}_total{labels}")


async def test_copies_are_sent_and_their_answers_dropped(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    _, proxy, one, two = await started(etcd, "copies", replicas, start_proxy)
    ask(proxy, 20)
    ask(proxy, 1, infer(request_id="the last"))
    eventually(lambda: two.counts()["copies"] == 21, timeout_s=60, what="all are copied")
    assert one.counts()["copies"] == 0
    assert two.counts()["digest"] == one.counts()["digest"], "a copy has the same bytes"
    assert 0 < two.counts()["left_s"] <= 11, "clients of gRPC round up"
    assert copies(proxy, "sent", '{deployment="two"}') == 21
    assert copies(proxy, "failed") == copies(proxy, "not_sent") == 0
    assert proxy.metric("mesh_proxy_requests_total") == proxy.metric("mesh_proxy_attempts_total") == 21


async def test_a_copy_has_the_deadline_of_its_request(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    _, proxy, _, two = await started(etcd, "copied-deadline", replicas, start_proxy)
    two.behave("hang")
    assert who(proxy.stub.ModelInfer(infer(), timeout=6)) == "one"
    eventually(lambda: two.counts()["infer"] == 1, timeout_s=60, what="it is copied")
    assert two.counts()["left_s"] <= 7
    eventually(lambda: two.counts()["cancelled"] == 1, timeout_s=60, what="it ends in time")
    eventually(lambda: copies(proxy, "failed") == 1, timeout_s=60, what="it is counted")


async def test_a_share_is_copied(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    _, proxy, *_ = await started(etcd, "copied-share", replicas, start_proxy, percent=10.0)
    ask(proxy, 1200)
    assert 57 <= copies(proxy, "sent") <= 183, "six standard deviations on either side"


async def test_what_is_not_copied(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    _, proxy, _, two = await started(etcd, "not-copied", replicas, start_proxy)
    sequence = infer()
    sequence.parameters["sequence_id"].int64_param = 7
    sequence.parameters["sequence_start"].bool_param = True
    ask(proxy, 3, sequence)
    ask(proxy, 3, metadata=(("mesh-shadow", "1"),))
    assert len(list(proxy.stub.ModelStreamInfer(iter([infer()] * 3), timeout=60))) == 3
    ask(proxy, 3, metadata=(("mesh-deployment", "one"),))
    assert proxy.metric("mesh_proxy_attempts_total") == 10
    assert copies(proxy, "sent") == copies(proxy, "not_sent") == two.counts()["infer"] == 0


async def test_copies_that_fail_are_nobodys_failures(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    _, proxy, one, two = await started(etcd, "copies-fail", replicas, start_proxy)
    two.behave("error", code="INTERNAL", details="not yet right")
    ask(proxy, 30)
    eventually(lambda: copies(proxy, "failed") == 30, timeout_s=60, what="they fail")
    with traffic(proxy) as load:
        load.more(50, of="one")
        two.kill()
        load.more(100, of="one")
    assert load.errors == []
    eventually(lambda: copies(proxy, "failed") >= 100, timeout_s=60, what="they fail")
    assert proxy.metric("mesh_proxy_ejections_total") == proxy.metric("mesh_proxy_retries_total") == 0
    assert one.counts()["copies"] == 0


async def test_copies_that_hang_are_bounded(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    _, proxy, _, two = await started(etcd, "copies-hang", replicas, start_proxy)
    two.behave("hold")
    calls = [proxy.stub.ModelInfer.future(infer(), timeout=60) for _ in range(MAX_COPIES + 50)]
    assert {who(call.result()) for call in calls} == {"one"}
    refused = copies(proxy, "not_sent", '{deployment="two",reason="full"}')
    assert copies(proxy, "sent") + refused == MAX_COPIES + 50
    assert refused > 0
    assert copies(proxy, "sent") - copies(proxy, "failed") <= MAX_COPIES, "those that fail ran for too long"
    assert proxy.metric("mesh_proxy_in_flight") == 0
    two.behave()
    eventually(lambda: two.counts()["running"] == 0, timeout_s=60, what="they are answered")
    eventually(lambda: _one_more(proxy), timeout_s=60, what="there is room again")


def _one_more(proxy: Proxy) -> bool:
    before = copies(proxy, "sent")
    ask(proxy, 1)
    return copies(proxy, "sent") == before + 1


async def test_the_bytes_of_copies_are_bounded(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    _, proxy, _, two = await started(etcd, "copies-large", replicas, start_proxy)
    two.behave("hold")
    large = infer()
    large.raw_input_contents[0] = bytes(65 << 20)
    ask(proxy, 1, large)
    assert (copies(proxy, "sent"), copies(proxy, "not_sent")) == (0, 1), "it is more than all may have"
    large.raw_input_contents[0] = bytes(33 << 20)

    def one_of_two_is_copied() -> bool:  # unless the first one's time was over before the second one came
        refused = copies(proxy, "not_sent")
        calls = [proxy.stub.ModelInfer.future(large, timeout=60) for _ in range(2)]
        answered.update(who(call.result()) for call in calls)
        return copies(proxy, "not_sent") == refused + 1

    answered: set[str] = set()
    eventually(one_of_two_is_copied, timeout_s=120, what="both together are too much")
    assert answered == {"one"}
    eventually(lambda: _one_more(proxy), timeout_s=60, what="a small one has room")


async def test_nobody_to_send_a_copy_to(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    registry, proxy, _, two = await started(etcd, "no-shadow", replicas, start_proxy)
    await registry.put(two, deployment="two", models=[records.ModelRecord(name="letters")])
    eventually(lambda: not _one_more(proxy), timeout_s=60, what="the model is not there any more")
    await registry.delete(two, deployment="two")
    ready(proxy, 1)
    before = copies(proxy, "not_sent", '{deployment="two",reason="no_endpoint"}')
    ask(proxy, 5)
    assert copies(proxy, "not_sent", '{deployment="two",reason="no_endpoint"}') == before + 5


async def test_copies_end_with_an_endpoint_that_leaves(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    registry, proxy, _, two = await started(etcd, "shadow-leaves", replicas, start_proxy)
    two.behave("hold")
    ask(proxy, 5)
    eventually(lambda: two.counts()["running"] == 5, timeout_s=60, what="they run")
    await registry.delete(two, deployment="two")
    ready(proxy, 1)
    two.behave()
    eventually(lambda: two.counts()["running"] == 0, timeout_s=60, what="they are answered")
    assert two.counts()["cancelled"] == 0
    assert copies(proxy, "failed") == 0
