"""What may break while an application serves, and what must follow: the failure table's rows of master and agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import pytest
from sklearn.datasets import load_digits

from serving._proto import records_pb2 as pb
from serving.cluster_agent.__main__ import EXIT_SECOND_AGENT
from serving.local.process import Process
from serving.store import keys
from serving.store.records import decode, encode
from tests.integration.master.small_mesh import CLUSTER, Keeper, SmallMesh, classify, spec, until
from tests.support.processes import master_pids, replica_pids

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

IMAGES = load_digits().data.astype("float32")[:4]


async def two_replicas(mesh: SmallMesh, keeper: Keeper) -> dict[str, int]:
    """A ready application; pids of its replicas by id."""
    await keeper.place(spec(keeper.app, mesh.repository(), replicas=2))
    return pids_of(await keeper.wait_ready())


def pids_of(status: pb.ApplicationStatus) -> dict[str, int]:
    return {row.id: row.pid for row in status.deployments[0].replicas}


async def cluster_record(keeper: Keeper) -> pb.ClusterRecord | None:
    kv = await keeper.client.get(keys.cluster(CLUSTER))
    return decode(pb.ClusterRecord, kv.value) if kv is not None else None


async def wait_replaced(keeper: Keeper, replica: str, dead: int) -> float:
    """Seconds until discovery shows another process under the same id."""
    started = time.monotonic()

    async def back() -> bool:
        found = (await keeper.endpoints()).get(replica)
        return found is not None and found[0].pid not in (0, dead) and found[0].state == "ready"

    await until(back)
    return time.monotonic() - started


async def wait_ready_without(keeper: Keeper, dead: int) -> pb.ApplicationStatus:
    """A status that was written after the master knew of the process's end: all is ready again."""
    return await keeper.wait_status(
        lambda status: status.phase == pb.READY and not {dead, 0} & set(pids_of(status).values())
    )


async def wait_undiscovered(keeper: Keeper, pid: int) -> float:
    started = time.monotonic()

    async def gone() -> bool:
        return all(endpoint.pid != pid for endpoint, _ in (await keeper.endpoints()).values())

    await until(gone)
    return time.monotonic() - started


async def test_a_killed_replica_leaves_discovery_at_once_and_comes_back(mesh: SmallMesh, keeper: Keeper) -> None:
    pids = await two_replicas(mesh, keeper)
    victim = pids["digits-r1-0"]
    lease = (await keeper.endpoints())["digits-r1-0"][1].lease
    os.kill(victim, signal.SIGKILL)
    gone_s = await wait_undiscovered(keeper, victim)
    back_s = await wait_replaced(keeper, "digits-r1-0", victim)
    print(f"out of discovery after {gone_s * 1000:.0f} ms, back after {gone_s + back_s:.1f} s")
    assert f'"lease":{lease}' in mesh.master_log(keeper.app), "the master revokes the lease, it does not wait for it"
    status = await wait_ready_without(keeper, victim)
    after = pids_of(status)
    assert after["digits-r1-1"] == pids["digits-r1-1"], "the other replica is left alone"
    assert {row.id: row.restarts for row in status.deployments[0].replicas} == {"digits-r1-0": 1, "digits-r1-1": 0}
    for endpoint, _ in (await keeper.endpoints()).values():
        assert len(await classify(endpoint.address, IMAGES)) == len(IMAGES)


async def test_a_hung_replica_is_taken_out_and_restarted(mesh: SmallMesh, keeper: Keeper) -> None:
    pids = await two_replicas(mesh, keeper)
    victim = pids["digits-r1-1"]
    os.kill(victim, signal.SIGSTOP)
    try:
        await wait_undiscovered(keeper, victim)
        await wait_replaced(keeper, "digits-r1-1", victim)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)
    after = pids_of(await wait_ready_without(keeper, victim))
    assert after["digits-r1-0"] == pids["digits-r1-0"]
    assert "does not answer" in mesh.master_log(keeper.app)


async def test_a_killed_master_adopts_what_runs(mesh: SmallMesh, keeper: Keeper) -> None:
    pids = await two_replicas(mesh, keeper)
    before = master_pids(mesh.ray)
    assert len(before) == 1
    os.kill(before[0], signal.SIGKILL)

    async def restarted() -> bool:
        found = master_pids(mesh.ray)
        return len(found) == 1 and found != before

    await until(restarted)
    artifact = keeper.stored.spec.deployments[0].triton.repository
    await keeper.place(spec(keeper.app, artifact, replicas=3))
    after = pids_of(await keeper.wait_ready())
    assert {name: after[name] for name in pids} == pids, "nothing restarts because of its master"
    assert set(after) == {"digits-r1-0", "digits-r1-1", "digits-r2-0"}


async def test_a_hung_master_is_started_again(mesh: SmallMesh, keeper: Keeper) -> None:
    pids = await two_replicas(mesh, keeper)
    before = master_pids(mesh.ray)
    os.kill(before[0], signal.SIGSTOP)

    async def restarted() -> bool:
        found = master_pids(mesh.ray)
        return len(found) == 1 and found != before

    try:
        await until(restarted, timeout_s=150.0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(before[0], signal.SIGCONT)
    artifact = keeper.stored.spec.deployments[0].triton.repository
    await keeper.place(spec(keeper.app, artifact, replicas=3))
    assert pids_of(await keeper.wait_ready()).items() >= pids.items()


async def test_a_master_killed_during_a_rollout_finishes_it(mesh: SmallMesh, keeper: Keeper) -> None:
    await two_replicas(mesh, keeper)
    changed = spec(keeper.app, keeper.stored.spec.deployments[0].triton.repository, replicas=2)
    changed.deployments[0].env["VERSION"] = "2"
    await keeper.place(changed)

    async def begun() -> bool:
        return any(endpoint.revision == 2 for endpoint, _ in (await keeper.endpoints()).values())

    await until(begun)
    for pid in master_pids(mesh.ray):
        os.kill(pid, signal.SIGKILL)
    status = await keeper.wait_ready()
    serving = {row.id for row in status.deployments[0].replicas if row.state == pb.REPLICA_READY}
    assert serving == {"digits-r2-0", "digits-r2-1"}

    async def only_new() -> bool:
        return set(await keeper.endpoints()) == {"digits-r2-0", "digits-r2-1"}

    await until(only_new)


async def test_a_killed_agent_is_followed_by_another_that_finds_everything(mesh: SmallMesh, keeper: Keeper) -> None:
    pids = await two_replicas(mesh, keeper)
    masters = master_pids(mesh.ray)
    old = await cluster_record(keeper)
    assert old is not None
    mesh.agents[-1].kill()
    mesh.start_agent()

    async def taken_over() -> bool:
        record = await cluster_record(keeper)
        return record is not None and record.agent_id != old.agent_id and str(keeper.app) in record.masters

    await until(taken_over)
    assert master_pids(mesh.ray) == masters
    changed = spec(keeper.app, keeper.stored.spec.deployments[0].triton.repository, replicas=1)
    await keeper.place(changed)
    status = await keeper.wait_status(lambda status: status.revision == 2 and len(status.deployments[0].replicas) == 1)
    assert set(pids_of(status).items()) <= set(pids.items())
    await keeper.delete()
    await keeper.wait_gone()


async def test_an_agent_that_ends_in_order_takes_its_record_along(mesh: SmallMesh, keeper: Keeper) -> None:
    pids = await two_replicas(mesh, keeper)
    await asyncio.to_thread(mesh.agents[-1].stop)
    assert await cluster_record(keeper) is None
    assert pids_of(await keeper.wait_ready()) == pids
    mesh.start_agent()

    async def registered() -> bool:
        return await cluster_record(keeper) is not None

    await until(registered)


async def test_a_second_agent_of_a_cluster_refuses(mesh: SmallMesh, keeper: Keeper) -> None:
    before = await cluster_record(keeper)
    second = mesh.start_agent()
    mesh.agents.remove(second)
    try:
        await until(lambda: _ended(second))
        assert second.exit_status() == EXIT_SECOND_AGENT
        assert "has an agent already" in second.log_file.read_text()
    finally:
        second.stop()
    after = await cluster_record(keeper)
    assert before is not None
    assert after is not None
    assert after.agent_id == before.agent_id


async def _ended(process: Process) -> bool:
    return not process.running()


async def test_without_etcd_everything_runs_and_dead_replicas_are_replaced(mesh: SmallMesh, keeper: Keeper) -> None:
    pids = await two_replicas(mesh, keeper)
    victim = pids["digits-r1-0"]
    addresses = [endpoint.address for endpoint, _ in (await keeper.endpoints()).values()]
    await asyncio.to_thread(mesh.etcd.stop)
    try:
        for address in addresses:
            assert len(await classify(address, IMAGES)) == len(IMAGES)
        os.kill(victim, signal.SIGKILL)

        async def restarted() -> bool:
            found = replica_pids(mesh.ray)
            return "etcd does not answer" in mesh.master_log(keeper.app) and len(found) == 2 and victim not in found

        await until(restarted)
    finally:
        await asyncio.to_thread(mesh.etcd.start)
    await wait_replaced(keeper, "digits-r1-0", victim)
    status = await wait_ready_without(keeper, victim)
    assert pids_of(status)["digits-r1-1"] == pids["digits-r1-1"]
    assert len(master_pids(mesh.ray)) == 1


async def test_an_emptied_etcd_is_written_back_and_nothing_ends(mesh: SmallMesh, keeper: Keeper) -> None:
    pids = await two_replicas(mesh, keeper)
    masters = master_pids(mesh.ray)
    await asyncio.to_thread(mesh.etcd.stop)
    mesh.etcd.wipe()
    await asyncio.to_thread(mesh.etcd.start)

    async def written_back() -> bool:
        placement = await keeper.client.get(keys.placement(CLUSTER, keeper.app))
        record = await cluster_record(keeper)
        same = placement is not None and decode(pb.Placement, placement.value) == keeper.order()
        registered = {endpoint.pid for endpoint, _ in (await keeper.endpoints()).values()} == set(pids.values())
        return same and registered and record is not None and str(keeper.app) in record.masters

    await until(written_back)
    status = await keeper.wait_ready()
    assert pids_of(status) == pids
    assert master_pids(mesh.ray) == masters
    older = keeper.order()
    older.stored.revision = 0
    await keeper.client.put(keys.placement(CLUSTER, keeper.app), encode(older))

    async def corrected() -> bool:
        placement = await keeper.client.get(keys.placement(CLUSTER, keeper.app))
        return placement is not None and decode(pb.Placement, placement.value) == keeper.order()

    await until(corrected)
