"""Replicas that follow the load on a real cluster, down to none and back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from serving._proto import records_pb2 as pb
from serving.types import ROLE_PROXY
from tests.integration.master.small_mesh import Keeper, SmallMesh, proxies, spec, until
from tests.support.processes import master_pids

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

SLOW_MODEL = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.1)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", pb_utils.get_input_tensor_by_name(one, "X").as_numpy())])
            for one in requests
        ]
"""
SLOW_CONFIG = """name: "slow"
backend: "python"
input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""


def add_slow_model(repository: Path) -> None:
    (repository / "slow" / "1").mkdir(parents=True)
    (repository / "slow" / "config.pbtxt").write_text(SLOW_CONFIG)
    (repository / "slow" / "1" / "model.py").write_text(SLOW_MODEL)


def scaled(mesh: SmallMesh, keeper: Keeper, *, least: int, most: int) -> pb.ApplicationSpec:
    """One replica does one request at a time; four that run or wait are enough for it."""
    wanted = spec(keeper.app, mesh.repository(add_slow_model))
    wanted.deployments[0].replicas.min, wanted.deployments[0].replicas.max = least, most
    wanted.deployments[0].autoscaling.MergeFrom(pb.Autoscaling(target_ongoing=4, window_s=3, down_delay_s=4))
    wanted.deployments.append(proxies())
    return wanted


@asynccontextmanager
async def load(address: str, clients: int) -> AsyncIterator[list[str]]:
    """So many clients that ask all the time; what failed."""
    failed: list[str] = []
    over = asyncio.Event()

    async def ask() -> None:
        async with triton.InferenceServerClient(address) as client:
            while not over.is_set():
                try:
                    await ask_once(client)
                except Exception as error:  # noqa: BLE001 - the test says that there must be none
                    failed.append(repr(error))

    tasks = [asyncio.create_task(ask()) for _ in range(clients)]
    try:
        yield failed
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def ask_once(client: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("X", [1], "FP32")
    tensor.set_data_from_numpy(np.array([7], np.float32))
    answer = (await client.infer("slow", [tensor], client_timeout=120)).as_numpy("Y")
    assert answer is not None
    assert answer.tolist() == [7]


async def address_of_proxy(keeper: Keeper) -> str:
    async def there() -> bool:
        return bool(await keeper.endpoints(ROLE_PROXY))

    await until(there)
    return next(endpoint.address for endpoint, _ in (await keeper.endpoints(ROLE_PROXY)).values())


def of_digits(status: pb.ApplicationStatus) -> pb.DeploymentStatus:
    return next(found for found in status.deployments if found.name == "digits")


async def test_more_replicas_come_with_the_load_and_go_with_it(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(scaled(mesh, keeper, least=1, most=3))
    await keeper.wait_ready()
    async with load(await address_of_proxy(keeper), clients=12) as failed:
        grown = await keeper.wait_status(lambda status: of_digits(status).ready == 3)
    decision = of_digits(grown).scaling[0]
    assert decision.before == 1
    assert decision.after > 1
    assert "requests run or wait, 4 per replica are wanted" in decision.reason
    shrunk = await keeper.wait_status(lambda status: of_digits(status).wanted == of_digits(status).ready == 1)
    assert shrunk.phase == pb.READY
    assert of_digits(shrunk).scaling[-1].after == 1
    assert failed == []


async def test_none_are_left_when_nobody_asks_and_the_first_request_waits_for_one(
    mesh: SmallMesh, keeper: Keeper
) -> None:
    await keeper.place(scaled(mesh, keeper, least=0, most=2))
    await keeper.wait_ready()
    asleep = await keeper.wait_status(lambda status: of_digits(status).wanted == 0)

    async def nobody_there() -> bool:
        return not await keeper.endpoints()

    await until(nobody_there)
    assert asleep.phase == pb.READY
    assert asleep.serving_revision == 1
    async with triton.InferenceServerClient(await address_of_proxy(keeper)) as client:
        await asyncio.gather(*(ask_once(client) for _ in range(3)))
    woken = await keeper.wait_status(lambda status: len(of_digits(status).scaling) >= 2)
    assert [of_digits(woken).scaling[1].before, of_digits(woken).scaling[1].after] == [0, 1]


async def test_a_new_master_keeps_the_size_that_the_last_one_found(mesh: SmallMesh, keeper: Keeper) -> None:
    wanted = scaled(mesh, keeper, least=1, most=3)
    wanted.deployments[0].autoscaling.down_delay_s = 600
    await keeper.place(wanted)
    await keeper.wait_ready()
    async with load(await address_of_proxy(keeper), clients=12) as failed:
        before = await keeper.wait_status(lambda status: of_digits(status).ready == 3)
    assert failed == []
    (first,) = master_pids(mesh.ray)
    os.kill(first, signal.SIGKILL)

    async def restarted() -> bool:
        return master_pids(mesh.ray) not in ([], [first])

    await until(restarted)
    kept = of_digits(before).ready, of_digits(before).wanted
    changed = pb.ApplicationSpec()
    changed.CopyFrom(wanted)
    changed.deployments[0].autoscaling.max_step_down = 1  # a revision that replaces nothing
    await keeper.place(changed)
    after = await keeper.wait_ready()
    assert (of_digits(after).ready, of_digits(after).wanted) == kept
    assert {row.pid for row in of_digits(after).replicas} == {row.pid for row in of_digits(before).replicas}
    assert of_digits(after).scaling[: len(of_digits(before).scaling)] == of_digits(before).scaling
