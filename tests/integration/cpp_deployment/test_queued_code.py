"""Requests that wait at a broker, run by the code of a C++ deployment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import AsyncMeshClient, Connection
from serving.config import EtcdConfig
from serving.errors import Cancelled, FailedPrecondition
from serving.sdk import Ticket
from tests.integration.cpp_deployment.conftest import Start
from tests.integration.cpp_deployment.harness import floats, in_flight, words
from tests.integration.replica.replica_harness import APP
from tests.support.broker_serving import BrokerProcess, broker_config
from tests.support.waiting import aeventually, eventually_async

pytestmark = pytest.mark.timeout(900)
RESULT_S = 120.0


@pytest.fixture
def broker(tmp_path: Path, etcd: EtcdConfig) -> Iterator[BrokerProcess]:
    made = BrokerProcess(tmp_path, broker_config(tmp_path, etcd, application=APP.name, before=["model"]))
    made.wait_state("ready", registered=True)
    yield made
    made.end()


@pytest.fixture
async def client(etcd: EtcdConfig, broker: BrokerProcess) -> AsyncIterator[AsyncMeshClient]:
    assert broker.pid
    async with AsyncMeshClient(Connection(etcd)) as made:
        yield made


async def submit(client: AsyncMeshClient, x: float, what: str = "", **options: Any) -> Ticket:
    inputs: dict[str, Any] = {"x": floats(x)}
    if what:
        inputs["what"] = words(what)
    return await client.submit(APP.name, "model", inputs, **options)


async def test_answers_errors_and_cancellation(client: AsyncMeshClient, start: Start, etcd: EtcdConfig) -> None:
    replica = start("scale", args={"factor": 3}, etcd=etcd)
    metrics = replica.wait_state("ready").metrics_address
    done = await (await submit(client, 2)).result(timeout_s=RESULT_S)
    assert done["y"].tolist() == [6.0]
    with pytest.raises(FailedPrecondition, match="not today"):
        await (await submit(client, 1, "refuse")).result(timeout_s=RESULT_S)

    waits = await submit(client, 1, "wait")
    await eventually_async(lambda: in_flight(metrics) == 1, timeout_s=60, what="it runs")
    await waits.cancel()
    with pytest.raises(Cancelled):
        await waits.result(timeout_s=RESULT_S)
    await eventually_async(lambda: in_flight(metrics) == 0, timeout_s=60, what="the code has heard of it")
    told = (await (await submit(client, 1, "count")).result(timeout_s=RESULT_S))["told"]
    assert [bytes(one).decode() for one in told] == ["0", "1"], "waiting, cancelled"


async def test_code_that_is_not_well_gets_nothing_more(client: AsyncMeshClient, start: Start, etcd: EtcdConfig) -> None:
    replica = start("scale", etcd=etcd)
    await (await submit(client, 1, "sick")).result(timeout_s=RESULT_S)
    await asyncio.to_thread(replica.wait_state, "unhealthy")

    async def nothing_is_asked_for() -> bool:
        return all(row.credits <= 0 for row in await client.queue.statistics(APP.name))

    await aeventually(nothing_is_asked_for, timeout_s=60, what="its credits are taken back")
    waits = await submit(client, 1)
    assert await waits.state() == "QUEUED"


async def test_answers_of_a_stream_are_parts(client: AsyncMeshClient, start: Start, etcd: EtcdConfig) -> None:
    start("streams", etcd=etcd, model="streams")
    ticket = await client.submit(APP.name, "model", {"count": np.array([5])}, model="streams")
    assert [int(part.outputs()["i"][0]) async for part in ticket.parts(timeout_s=RESULT_S)] == [0, 1, 2, 3, 4]
    assert [int(one["i"][0]) for one in await ticket.result(timeout_s=RESULT_S)] == [0, 1, 2, 3, 4]
