"""A proxy that follows etcd: endpoints come, change and go; etcd goes away and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from proxy_harness import Proxy, infer, who
from sdk_harness import Replica
from tritonclient.grpc import service_pb2 as pb

from serving._proto import records_pb2 as records
from serving.local.etcd import EtcdCluster, start_etcd
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from tests.support.waiting import eventually

Replicas = Callable[..., list[Replica]]
StartProxy = Callable[..., Proxy]


class Registry:
    """Writes endpoint records as replicas do, of an application that no other test uses."""

    def __init__(self, etcd: EtcdCluster, name: str) -> None:
        self.app = AppKey("default", name)
        self._config = etcd.config()

    async def put(self, replica: Replica, **changes: Any) -> None:
        record = replica.endpoint(application=self.app.name, **changes)
        client = EtcdClient(self._config)
        try:
            await client.put(
                keys.endpoint(self.app, record.role, record.deployment, record.id),
                json_format.MessageToJson(record).encode(),
            )
        finally:
            await client.close()

    async def delete(self, replica: Replica) -> None:
        client = EtcdClient(self._config)
        try:
            await client.delete(keys.endpoint(self.app, "direct", "digits", replica.name))
        finally:
            await client.close()

    async def proxies(self) -> list[str]:
        """The records of proxies."""
        client = EtcdClient(self._config)
        try:
            found = await client.get_prefix(keys.endpoints(self.app, "proxy"))
        finally:
            await client.close()
        return [entry.value.decode() for entry in found.kvs]

    def start(self, start_proxy: StartProxy, **changes: Any) -> Proxy:
        etcd = {"endpoints": list(self._config.endpoints)}
        return start_proxy(application=self.app.name, etcd=etcd, **changes)


def ready(proxy: Proxy, count: int) -> None:
    eventually(
        lambda: proxy.metric('mesh_proxy_endpoints{state="ready"}') == count, timeout_s=90, what=f"{count} endpoints"
    )


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
