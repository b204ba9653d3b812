"""A proxy that follows etcd: endpoints come, change and go; etcd goes away and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from proxy_harness import Proxy, infer, who
from proxy_registry import Registry, ready
from sdk_harness import Replica
from tritonclient.grpc import service_pb2 as pb

from serving._proto import records_pb2 as records
from serving.local.etcd import EtcdCluster, start_etcd
from tests.support.waiting import eventually

Replicas = Callable[..., list[Replica]]
StartProxy = Callable[..., Proxy]


async def test_endpoints_come_and_go(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    registry = Registry(etcd, "come-and-go")
    one, two = replicas("one", "two")
    proxy = registry.start(start_proxy)
    assert not proxy.stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready
    held = proxy.stub.ModelInfer.future(infer(), timeout=100)
    eventually(lambda: proxy.metric("mesh_proxy_waiting") == 1, timeout_s=60, what="a request waits")
    await registry.put(one)
    assert who(held.result()) == "one", "it was held until there was somebody"
    await registry.put(two)
    ready(proxy, 2)
    await registry.put(one, state="draining")
    ready(proxy, 1)
    assert {who(proxy.stub.ModelInfer(infer(), timeout=60)) for _ in range(20)} == {"two"}
    await registry.delete(one)
    assert who(proxy.stub.ModelInfer(infer(), timeout=60)) == "two"


async def test_running_requests_of_one_that_leaves_are_finished(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    registry = Registry(etcd, "leaves")
    (one,) = replicas("one")
    one.behave(delay_s=3.0)
    await registry.put(one)
    proxy = registry.start(start_proxy)
    call = proxy.stub.ModelInfer.future(infer(), timeout=100)
    eventually(lambda: one.counts()["running"] == 1, timeout_s=60, what="it runs")
    await registry.delete(one)
    ready(proxy, 0)
    assert who(call.result()) == "one"


async def test_only_endpoints_that_offer_the_model_are_asked(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    registry = Registry(etcd, "models")
    one, two = replicas("one", "two")
    await registry.put(one, models=[records.ModelRecord(name="a", versions=["1"])])
    await registry.put(two, models=[records.ModelRecord(name="b", versions=["1", "2"])], deployment="digits")
    proxy = registry.start(start_proxy, policy={"unknown_model_wait_s": 0.2})
    ready(proxy, 2)
    assert {who(proxy.stub.ModelInfer(infer("a"), timeout=60)) for _ in range(10)} == {"one"}
    assert {who(proxy.stub.ModelInfer(infer("b"), timeout=60)) for _ in range(10)} == {"two"}
    with pytest.raises(grpc.RpcError) as caught:
        proxy.stub.ModelInfer(infer("c"), timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "a, b" in caught.value.details()
    assert not proxy.stub.ModelReady(pb.ModelReadyRequest(name="c"), timeout=60).ready


async def test_the_view_outlives_etcd(tmp_path: Path, replicas: Replicas, start_proxy: StartProxy) -> None:
    own = start_etcd(tmp_path / "own")
    try:
        registry = Registry(own, "outlives")
        (one,) = replicas("one")
        await registry.put(one)
        proxy = registry.start(start_proxy)
        ready(proxy, 1)
        own.kill()
        assert {who(proxy.stub.ModelInfer(infer(), timeout=60)) for _ in range(20)} == {"one"}
        own.wipe()
        own.start()
        eventually(lambda: "replaced" in proxy.log.read_text(), timeout_s=90, what="it sees another store")
        assert who(proxy.stub.ModelInfer(infer(), timeout=60)) == "one", "an empty store deletes nothing"
    finally:
        own.stop()


async def test_nobody_for_too_long(etcd: EtcdCluster, start_proxy: StartProxy) -> None:
    proxy = Registry(etcd, "nobody").start(start_proxy, holdS=0.5)
    with pytest.raises(grpc.RpcError) as caught:
        proxy.stub.ModelInfer(infer(), timeout=100)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "none is registered" in caught.value.details()


async def test_a_deployment_may_be_asked_for(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    registry = Registry(etcd, "deployments")
    one, two = replicas("one", "two")
    await registry.put(one)
    await registry.put(two, deployment="other")
    proxy = registry.start(start_proxy)
    ready(proxy, 2)
    asked = [("mesh-deployment", "other")]
    assert {who(proxy.stub.ModelInfer(infer(), timeout=60, metadata=asked)) for _ in range(10)} == {"two"}


async def test_it_registers_itself_and_leaves_before_it_ends(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    registry = Registry(etcd, "registers")
    (one,) = replicas("one")
    await registry.put(one)
    proxy = registry.start(start_proxy, labels={"zone": "a"})
    found = await until_there(registry)
    record = json_format.Parse(found[0], records.Endpoint())
    assert (record.address, record.role, record.state) == (proxy.address, "proxy", "ready")
    assert record.labels["zone"] == "a"
    one.behave(delay_s=2.0)
    ready(proxy, 1)
    call = proxy.stub.ModelInfer.future(infer(), timeout=100)
    eventually(lambda: one.counts()["running"] == 1, timeout_s=60, what="it runs")
    proxy.terminate()
    assert who(call.result()) == "one"
    assert proxy.process.wait(60) == 0
    assert await registry.proxies() == []


async def until_there(registry: Registry) -> list[str]:
    for _ in range(600):
        found = await registry.proxies()
        if found:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError("the proxy did not register itself")
