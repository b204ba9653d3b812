"""A replica that answers, but slowly, is replaced while clients ask, and no request fails."""

from __future__ import annotations

import numpy as np
import pytest

from serving.sdk.tensors import encode_request
from tests.integration.master.asking import application, clients, packed_code, says
from tests.integration.master.small_mesh import Keeper, SmallMesh, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


async def test_the_slow_one_is_replaced_under_traffic(mesh: SmallMesh, keeper: Keeper) -> None:
    wanted = says(packed_code(mesh, "slow"), 1, replicas=3)
    wanted.replace_slow.factor, wanted.replace_slow.after_s = 3.0, 2.0
    await keeper.place(application(keeper, wanted))
    before = {one.id: one.pid for one in (await keeper.wait_ready()).deployments[0].replicas}
    async with clients(keeper, workers=3) as asking:
        await asking.since_now(200)
        request = encode_request("says", {"x": np.zeros(7, np.float32)})  # whoever gets it is slow from now on
        await asking.client.call("ModelInfer", request, timeout_s=60.0, model="says")

        async def replaced() -> bool:
            now = {one.id: one.pid for one, _ in (await keeper.endpoints()).values() if one.state == "ready"}
            return len(now) == 3 and len(now.items() & before.items()) == 2

        await until(replaced, timeout_s=180)
        await asking.since_now(100)
    assert not asking.failures
    assert "where the others take" in mesh.master_log(keeper.app)
