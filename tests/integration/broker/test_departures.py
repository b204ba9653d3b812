"""Which replicas a broker takes for gone, by what a real etcd says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from serving._proto import records_pb2 as pb
from serving.broker.departures import Departures
from serving.local.etcd import EtcdOptions, start_etcd
from serving.store import EtcdClient, keys
from serving.store.keys import AppKey
from serving.store.records import encode
from tests.support.waiting import eventually_async

APP = AppKey("default", "departures")


def record(name: str, replica: str = "") -> tuple[str, bytes]:
    endpoint = pb.Endpoint(
        id=name,
        replica=replica,
        address="127.0.0.1:9",
        role="direct",
        state="ready",
        namespace=APP.namespace,
        application=APP.name,
        deployment="it",
    )
    return keys.endpoint(APP, "direct", "it", name), encode(endpoint)


async def until(look: Callable[[], object], what: str) -> None:
    await eventually_async(look, timeout_s=60, what=what)


async def test_only_what_a_living_store_has_lost_has_left(tmp_path: Path) -> None:
    etcd = start_etcd(tmp_path / "etcd", options=EtcdOptions(die_with_parent=True))
    store = EtcdClient(etcd.config())
    said: list[str] = []
    departures = Departures(
        store, APP, lambda name: said.append(f"left {name}"), lambda name: said.append(f"there {name}")
    )
    try:
        for name, replica in (("a", ""), ("b", ""), ("c-http", "c"), ("c-grpc", "c")):
            await store.put(*record(name, replica))
        departures.start()
        await until(lambda: len(said) == 3, "all are there")
        assert said == ["there a", "there b", "there c"]
        await store.delete(record("c-grpc", "c")[0])
        await store.delete(record("a")[0])
        await until(lambda: len(said) > 3, "one has left")
        assert said[3:] == ["left a"], "the other one has an endpoint still"

        etcd.stop()
        etcd.wipe()
        etcd.start()
        await store.put(*record("d"))
        await until(lambda: "there d" in said, "the store has come back, empty")
        await store.put(*record("a"))
        await until(lambda: said.count("there a") == 2, "one that had left is back")
        assert [line for line in said[4:] if line.startswith("left")] == []
    finally:
        await departures.close()
        await store.close()
        etcd.kill()
