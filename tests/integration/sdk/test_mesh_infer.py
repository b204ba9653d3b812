"""Requests through discovery: etcd is real, so are the replicas."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sdk_harness import Replica, Traffic, until
from sdk_mesh import Mesh

from serving.errors import DeadlineExceeded, StoreUnavailable, Unavailable
from serving.local.etcd import EtcdCluster
from serving.sdk import BF16, AsyncMeshClient, MeshClient, TensorMetadata
from serving.store import keys
from serving.store.keys import AppKey
from tests.support.waiting import eventually

Start = Callable[..., list[Replica]]
DIGITS = AppKey("default", "digits")
X = np.arange(4, dtype=np.float32).reshape(1, 4)


async def test_arrays_there_and_back(mesh: Mesh, replicas: Start) -> None:
    (one,) = replicas("one")
    await mesh.register(one.endpoint())
    inputs: dict[str, Any] = {
        dtype: np.arange(6).reshape(2, 3).astype(dtype)
        for dtype in ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    }
    inputs |= {dtype: np.linspace(-2, 2, 6).astype(dtype) for dtype in ("float16", "float32", "float64")}
    async with AsyncMeshClient(mesh.connection) as client:
        answer = await client.infer("digits", "digits", inputs)
        for name, array in inputs.items():
            np.testing.assert_array_equal(answer[name], array)
            assert answer[name].dtype == array.dtype
        texts = np.array([["a", "ü"], ["", "long " * 100]], dtype=object)
        answer = await client.infer("digits", "digits", {"t": texts, "b": BF16([1.5, -2.0])}, request_id="7")
        assert [item.decode() for item in answer["t"].reshape(-1)] == texts.reshape(-1).tolist()
        assert answer["b"].astype(np.float32).tolist() == [1.5, -2.0]
        large = np.random.default_rng(1).random((1024, 1024), dtype=np.float32)
        np.testing.assert_array_equal((await client.infer(DIGITS, "digits", {"x": large}))["x"], large)
    assert one.counts()["seen_ids"][-2] == "7"


async def test_metadata_and_endpoints(mesh: Mesh, replicas: Start) -> None:
    one, two = replicas("one", "two")
    await mesh.register(one.endpoint(), two.endpoint())
    async with AsyncMeshClient(mesh.connection) as client:
        metadata = await client.model_metadata("digits", "digits")
        assert metadata.inputs == (TensorMetadata("x", "FP32", (-1, 4)),)
        found = await client.endpoints("digits")
        assert [(endpoint.id, endpoint.address) for endpoint in found] == [("one", one.address), ("two", two.address)]
        assert await client.endpoints("digits", role="proxy") == ()


async def test_follows_discovery(mesh: Mesh, replicas: Start) -> None:
    one, two = replicas("one", "two")
    async with AsyncMeshClient(mesh.connection) as client:
        early = asyncio.create_task(client.infer("digits", "digits", {"x": X}))
        await asyncio.sleep(0)
        await mesh.register(one.endpoint())
        np.testing.assert_array_equal((await early)["x"], X)
        await mesh.register(two.endpoint(), one.endpoint(state="draining"))
        inner = await client.inference_client("digits")
        states = {"one": "draining", "two": "ready"}
        await until(lambda: {entry.id: entry.state for entry in inner.endpoints} == states, what="both known")
        before = one.counts()["infer"]
        for _ in range(10):
            await client.infer("digits", "digits", {"x": X})
        assert (one.counts()["infer"], two.counts()["infer"]) == (before, 10)
        await mesh.store.delete(keys.endpoint(DIGITS, "direct", "digits", "two"))
        await until(lambda: len(inner.endpoints) == 1, what="it is gone")
        with pytest.raises(Unavailable, match="none takes new work"):
            await client.infer("digits", "digits", {"x": X}, timeout_s=0.5)


async def test_no_request_fails_while_etcd_is_away(mesh: Mesh, replicas: Start, etcd: EtcdCluster) -> None:
    one, two = replicas("one", "two")
    await mesh.register(one.endpoint(), two.endpoint())
    async with AsyncMeshClient(mesh.connection) as client:

        async def once() -> str:
            await client.infer("digits", "digits", {"x": X})
            return "answered"

        inner = await client.inference_client("digits")
        async with Traffic(once, callers=4) as traffic:
            await traffic.more(50)
            await until(lambda: not inner.stale, what="a fresh view")
            await asyncio.to_thread(etcd.stop)
            await until(lambda: inner.stale, what="the view is said to be stale")
            one.kill()
            await traffic.more(300)
            await asyncio.to_thread(etcd.start)
            await until(lambda: not inner.stale, what="the view is fresh again")
            await traffic.more(50)
    assert traffic.errors == []


async def test_etcd_away_from_the_start_is_said_in_time(mesh: Mesh, etcd: EtcdCluster) -> None:
    etcd.kill()
    async with AsyncMeshClient(mesh.connection) as client:
        started = time.monotonic()
        with pytest.raises((StoreUnavailable, DeadlineExceeded)):
            await client.infer("digits", "digits", {"x": X}, timeout_s=1.0)
        assert time.monotonic() - started < 30.0


async def test_many_threads_share_one_blocking_client(mesh: Mesh, replicas: Start) -> None:
    one, two = replicas("one", "two")
    await mesh.register(one.endpoint(), two.endpoint())
    wrong: list[object] = []

    def work(client: MeshClient, number: int) -> None:
        mine = np.full((1, 4), number, dtype=np.float32)
        for _ in range(30):
            answer = client.infer("digits", "digits", {"x": mine})["x"]
            if not np.array_equal(answer, mine):
                wrong.append(answer)

    def all_threads() -> None:
        with MeshClient(mesh.connection) as client, MeshClient(mesh.connection) as other:
            clients = [client, other]
            threads = [threading.Thread(target=work, args=(clients[i % 2], i)) for i in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert client.stats("digits").succeeded + other.stats("digits").succeeded == 240
            eventually(lambda: not client.is_stale("digits"), timeout_s=60, what="a fresh view")

    await asyncio.to_thread(all_threads)
    assert wrong == []
    assert not any(thread.name == "mesh-client" for thread in threading.enumerate())


SCRIPT = """
import sys, numpy as np
from serving import Connection, MeshClient
from serving.config import EtcdConfig
client = MeshClient(Connection(etcd=EtcdConfig(endpoints=(sys.argv[1],))))
print(client.infer("digits", "digits", {"x": np.ones(3, dtype=np.float32)})["x"].tolist())
"""


async def test_a_program_that_forgets_to_close_ends_quietly(mesh: Mesh, replicas: Start) -> None:
    (one,) = replicas("one")
    await mesh.register(one.endpoint())
    command = [sys.executable, "-c", SCRIPT, mesh.etcd.endpoints[0]]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[1.0, 1.0, 1.0]")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


async def test_closing_while_threads_wait_answers_them(mesh: Mesh, replicas: Start) -> None:
    (one,) = replicas("one")
    one.behave("hang")
    await mesh.register(one.endpoint())
    client = MeshClient(mesh.connection)
    errors: list[Exception] = []

    def wait() -> None:
        try:
            client.infer("digits", "digits", {"x": X})
        except Unavailable as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    await until(lambda: one.counts()["running"] == 1, what="it runs")
    await asyncio.to_thread(client.close)
    await asyncio.to_thread(thread.join, 30.0)
    assert ["the inference client was closed" in str(error) for error in errors] == [True]
