"""Proxies that a master runs beside the replicas: real actors in front of real Tritons."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from tritonclient.utils import InferenceServerException

from serving._proto import records_pb2 as pb
from serving.discovery import ClientConfig, InferenceClient, Resolver
from serving.sdk.tensors import decode_response, encode_request
from serving.types import ROLE_PROXY
from tests.integration.master.small_mesh import Keeper, SmallMesh, classify, proxies, spec, until
from tests.support.processes import replica_pids

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

IMAGES = load_digits().data.astype(np.float32)[:32]


def with_proxies(mesh: SmallMesh, keeper: Keeper, *, replicas: int = 1, count: int = 1) -> pb.ApplicationSpec:
    wanted = spec(keeper.app, mesh.repository(), replicas=replicas)
    wanted.deployments.append(proxies(replicas=count))
    return wanted


def row_of(status: pb.ApplicationStatus, replica_id: str) -> pb.ReplicaStatus:
    rows = [row for deployment in status.deployments for row in deployment.replicas]
    return next(row for row in rows if row.id == replica_id)


async def proxy_address(keeper: Keeper, wanted: Callable[[pb.Endpoint], bool] = lambda _: True) -> str:
    """Of a proxy in discovery that takes new work."""
    found = ""

    async def look() -> bool:
        nonlocal found
        listed = [endpoint for endpoint, _ in (await keeper.endpoints(ROLE_PROXY)).values()]
        ready = [endpoint.address for endpoint in listed if endpoint.state == "ready" and wanted(endpoint)]
        found = ready[0] if ready else ""
        return bool(found)

    await until(look)
    return found


async def test_proxies_answer_as_the_replicas_do(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(with_proxies(mesh, keeper, replicas=2))
    status = await keeper.wait_ready()
    assert [(found.name, found.ready) for found in status.deployments] == [("digits", 2), ("grpc", 1)]
    address = await proxy_address(keeper)
    row = row_of(status, "grpc-r1-0")
    assert (row.address, row.state) == (address, pb.REPLICA_READY)
    direct = (await keeper.endpoints())["digits-r1-0"][0].address
    assert np.array_equal(await classify(address, IMAGES), await classify(direct, IMAGES))
    record = (await keeper.endpoints(ROLE_PROXY))["grpc-r1-0"][0]
    assert (record.deployment, record.protocol, record.pid) == ("grpc", "kserve-grpc", row.pid)


async def test_busy_polling_reaches_replica_and_proxy(mesh: SmallMesh, keeper: Keeper) -> None:
    wanted = with_proxies(mesh, keeper)
    wanted.deployments[0].triton.busy_poll_us = 100
    wanted.deployments[1].proxy.busy_poll_us = 50
    await keeper.place(wanted)
    await keeper.wait_ready()
    assert len(await classify(await proxy_address(keeper), IMAGES)) == len(IMAGES)
    logs = mesh.directory / "logs" / "replicas" / keeper.app.namespace / keeper.app.name
    for name, polls_us in (("digits", 100), ("grpc", 50)):
        assert f'"busy_poll_us":{polls_us}' in (logs / name / f"{name}-r1-0.log").read_text()


class Traffic:
    """Asks one request after the other while it is entered, and keeps what came of each."""

    def __init__(self, ask: Callable[[], Awaitable[NDArray[np.int64]]], expected: NDArray[np.int64]) -> None:
        self.right = 0
        self.wrong: list[NDArray[np.int64]] = []
        self.failed: list[Exception] = []
        self._ask = ask
        self._expected = expected
        self._over = asyncio.Event()

    async def __aenter__(self) -> Traffic:
        self._task = asyncio.create_task(self._run())
        await self.wait_for(10)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await self._task

    async def wait_for(self, more: int) -> None:
        wanted = self.right + more

        async def came() -> bool:
            return self.right >= wanted

        await until(came, told=lambda: f"{self.right} of {wanted} right answers; {self.failed[-3:]}")

    async def _run(self) -> None:
        while not self._over.is_set():
            try:
                answer = await self._ask()
            except Exception as error:  # noqa: BLE001 - the tests say which there may be
                self.failed.append(error)
                continue
            if np.array_equal(answer, self._expected):
                self.right += 1
            else:
                self.wrong.append(answer)


@asynccontextmanager
async def sdk_client(keeper: Keeper) -> AsyncIterator[InferenceClient]:
    """A client that goes through the application's proxies."""
    resolver = Resolver(keeper.client, keeper.app, role=ROLE_PROXY)
    client = InferenceClient(resolver, config=ClientConfig(via=ROLE_PROXY))
    await resolver.start()
    await client.start()
    try:
        yield client
    finally:
        await client.close()
        await resolver.close()


async def classify_by(client: InferenceClient, images: NDArray[np.float32]) -> NDArray[np.int64]:
    request = encode_request("digits", {"image": images})
    answer = await client.call("ModelInfer", request, timeout_s=60, model="digits", deployment="digits")
    classes: NDArray[np.int64] = decode_response(answer)["probabilities"].argmax(axis=1)
    return classes


async def test_a_killed_proxy_costs_the_sdk_no_request_and_comes_back(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(with_proxies(mesh, keeper, count=2))
    victim = row_of(await keeper.wait_ready(), "grpc-r1-0").pid
    expected = await classify(await proxy_address(keeper), IMAGES)
    async with sdk_client(keeper) as client, Traffic(lambda: classify_by(client, IMAGES), expected) as traffic:
        lease = (await keeper.endpoints(ROLE_PROXY))["grpc-r1-0"][1].lease
        os.kill(victim, signal.SIGKILL)
        await proxy_address(keeper, lambda found: found.id == "grpc-r1-0" and found.pid != victim)
        await traffic.wait_for(20)
    assert (traffic.failed, traffic.wrong) == ([], [])
    assert f'"lease":{lease}' in mesh.master_log(keeper.app), "the master revokes the lease, it does not wait for it"
    status = await keeper.wait_status(
        lambda status: status.phase == pb.READY and row_of(status, "grpc-r1-0").pid not in (0, victim)
    )
    assert row_of(status, "grpc-r1-0").restarts == 1
    assert row_of(status, "digits-r1-0").restarts == 0


async def test_a_hung_proxy_is_restarted(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(with_proxies(mesh, keeper))
    victim = row_of(await keeper.wait_ready(), "grpc-r1-0").pid
    os.kill(victim, signal.SIGSTOP)
    try:
        address = await proxy_address(keeper, lambda found: found.pid != victim)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)
    assert len(await classify(address, IMAGES)) == len(IMAGES)
    assert "does not answer" in mesh.master_log(keeper.app)


async def test_replicas_change_behind_a_proxy_and_plain_clients_see_nothing(mesh: SmallMesh, keeper: Keeper) -> None:
    first = with_proxies(mesh, keeper, replicas=2)
    await keeper.place(first)
    before = await keeper.wait_ready()
    address = await proxy_address(keeper)
    expected = await classify(address, IMAGES)
    async with Traffic(lambda: classify(address, IMAGES), expected) as traffic:
        for version in ("2", "3"):
            changed = pb.ApplicationSpec()
            changed.CopyFrom(first)
            changed.deployments[0].env["VERSION"] = version
            await keeper.place(changed)
            await keeper.wait_ready()
            await traffic.wait_for(10)
    assert (traffic.failed, traffic.wrong) == ([], [])
    after = await keeper.wait_ready()
    assert row_of(after, "grpc-r1-0").pid == row_of(before, "grpc-r1-0").pid, "the proxies' own spec did not change"


async def test_another_policy_rolls_the_proxies_out_and_leaves_the_replicas(mesh: SmallMesh, keeper: Keeper) -> None:
    first = with_proxies(mesh, keeper, count=2)
    await keeper.place(first)
    before = await keeper.wait_ready()
    expected = await classify(await proxy_address(keeper), IMAGES)
    changed = pb.ApplicationSpec()
    changed.CopyFrom(first)
    changed.deployments[1].proxy.policy.update({"choice": "least_latency", "probes": 3})
    async with sdk_client(keeper) as client, Traffic(lambda: classify_by(client, IMAGES), expected) as traffic:
        await keeper.place(changed)
        after = await keeper.wait_ready()
        await traffic.wait_for(10)
    assert (traffic.failed, traffic.wrong) == ([], [])
    assert row_of(after, "digits-r1-0").pid == row_of(before, "digits-r1-0").pid

    async def only_new_ones() -> bool:
        return set(await keeper.endpoints(ROLE_PROXY)) == {"grpc-r2-0", "grpc-r2-1"}

    await until(only_new_ones)


async def test_a_proxy_that_cannot_start_says_why(mesh: SmallMesh, keeper: Keeper) -> None:
    wanted = with_proxies(mesh, keeper)
    wanted.deployments[1].proxy.policy.update({"choice": "random"})  # no SDK lets this pass
    await keeper.place(wanted)
    status = await keeper.wait_status(lambda status: status.phase == pb.FAILED)
    reason = status.deployments[1].reason
    assert "the proxy cannot start: field 'policy'" in reason
    assert "random" in reason
    assert row_of(await keeper.wait_status(lambda now: now.deployments[0].ready == 1), "digits-r1-0").pid


async def test_a_drained_proxy_refuses_and_ends(mesh: SmallMesh, keeper: Keeper) -> None:
    first = with_proxies(mesh, keeper, count=2)
    await keeper.place(first)
    row = row_of(await keeper.wait_ready(), "grpc-r1-1")
    fewer = pb.ApplicationSpec()
    fewer.CopyFrom(first)
    fewer.deployments[1].replicas.min = fewer.deployments[1].replicas.max = 1
    await keeper.place(fewer)

    async def gone() -> bool:
        return set(await keeper.endpoints(ROLE_PROXY)) == {"grpc-r1-0"} and row.pid not in replica_pids(mesh.ray)

    await until(gone)
    with pytest.raises(InferenceServerException):
        await classify(row.address, IMAGES)
