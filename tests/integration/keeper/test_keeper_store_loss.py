"""etcd away, wiped, or older than it was, under real keepers."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
from keeper_harness import SHOP, Bench, eventually, name_of, spec, wipe

from serving._proto import keeper_pb2 as api
from serving._proto import records_pb2 as pb
from serving.local.etcd import EtcdCluster
from serving.store import keys
from serving.store.keys import AppKey
from serving.store.records import encode

OTHER = AppKey("default", "other")


async def deployed(bench: Bench, stub: Any, revisions: int = 3) -> str:
    """`shop` on east in its `revisions`-th revision, which the keeper has in its memory too; returns its uid."""
    uid = ""
    for number in range(revisions):
        answer = await stub.Deploy(api.DeployRequest(spec=spec(cpus=1 + number)), timeout=60)
        uid = answer.uid
    await bench.placed("east", generation=1, revision=revisions)

    async def remembered() -> bool:
        view = await stub.GetApplication(name_of(), timeout=60)
        return (view.stored.revision, view.decision.cluster) == (revisions, "east")

    await eventually(remembered)
    return uid


async def stored(bench: Bench, key: AppKey = SHOP) -> dict[str, bytes]:
    return {kv.key: kv.value for kv in (await bench.client.get_prefix(keys.app(key))).kvs}


async def test_etcd_away_reads_from_memory_and_writes_say_so(bench: Bench, etcd: EtcdCluster) -> None:
    keeper = await bench.keeper()
    await bench.cluster("east")
    await deployed(bench, keeper.stub)
    await asyncio.to_thread(etcd.kill)
    call = keeper.stub.GetApplication(name_of(), timeout=30)
    view = await call
    assert (view.stored.revision, view.decision.cluster) == (3, "east")
    assert view.message.startswith("last known state, the store has not answered for")
    assert "mesh-stale-s" in {key for key, _ in await call.trailing_metadata()}
    listed = await keeper.stub.ListApplications(api.ListApplicationsRequest(), timeout=30)
    assert [item.stored.revision for item in listed.applications] == [3]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await keeper.stub.Deploy(api.DeployRequest(spec=spec(cpus=9)), timeout=60)
    assert error.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    await asyncio.to_thread(etcd.start)
    assert keeper.process.running()

    async def writes() -> bool:
        return (await keeper.stub.Deploy(api.DeployRequest(spec=spec(cpus=7)), timeout=60)).revision >= 4

    await eventually(writes)
    await bench.leader()
    view = await keeper.stub.GetApplication(name_of(), timeout=60)
    await bench.placed("east", generation=1, revision=view.stored.revision)


async def test_a_keeper_started_without_etcd_waits_for_it(bench: Bench, etcd: EtcdCluster) -> None:
    await asyncio.to_thread(etcd.kill)
    keeper = await bench.keeper()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await keeper.stub.ListClusters(api.ListClustersRequest(), timeout=60)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "has not read the store yet" in (error.value.details() or "")
    await asyncio.to_thread(etcd.start)
    await bench.leader()


async def test_a_wiped_store_gets_everything_back_from_memory(bench: Bench, etcd: EtcdCluster) -> None:
    for index in range(2):
        await bench.keeper(f"k{index}")
    stub = (await bench.leader()).stub
    east = await bench.cluster("east")
    await deployed(bench, stub)
    await stub.Deploy(api.DeployRequest(spec=spec("other", cpus=99)), timeout=60)

    async def pending() -> bool:
        return await bench.decision(OTHER) is not None

    await eventually(pending)
    before, before_other = await stored(bench), await stored(bench, OTHER)
    await wipe(etcd)

    async def back() -> bool:
        assert set(await stored(bench)) == set(before)
        assert set(await stored(bench, OTHER)) == set(before_other)
        return True

    await eventually(back, what="all keys are back")
    await bench.placed("east", generation=1, revision=3)
    after = await stored(bench)
    assert after[keys.spec(SHOP)] == before[keys.spec(SHOP)]
    found = await bench.decision()
    assert found is not None
    assert found.why.startswith("restored from the memory of keeper k")
    await east.live()
    leader = await bench.leader()

    async def says_so() -> bool:
        view = await leader.stub.GetApplication(name_of(), timeout=60)
        kinds = {event["kind"] for keeper in bench.keepers for event in await keeper.events()}
        return "restored from the memory" in view.message and {"store-replaced", "restored-spec"} <= kinds

    await eventually(says_so)
    await leader.stub.Deploy(api.DeployRequest(spec=spec(cpus=2.5)), timeout=60)
    await bench.placed("east", generation=1, revision=4)


async def test_nothing_moves_while_clusters_register_again(bench: Bench, etcd: EtcdCluster) -> None:
    await bench.keeper()
    stub = (await bench.leader()).stub
    east, west = await bench.cluster("east"), await bench.cluster("west", cpus=4)
    await deployed(bench, stub)
    await wipe(etcd)

    async def back() -> bool:
        return await bench.decision() is not None

    await eventually(back)
    await west.live()
    await east.live()
    leader = await bench.leader()
    await leader.stub.Deploy(api.DeployRequest(spec=spec("other")), timeout=60)
    await bench.placed("west", generation=1, key=OTHER)
    await bench.placed("east", generation=1, revision=3)


async def test_an_older_store_is_brought_up_to_date(bench: Bench, etcd: EtcdCluster, tmp_path: Path) -> None:
    await bench.keeper()
    stub = (await bench.leader()).stub
    east = await bench.cluster("east")
    await deployed(bench, stub, 2)
    copy, data = tmp_path / "backup", etcd.members[0].data_dir
    await asyncio.to_thread(etcd.stop)
    shutil.copytree(data, copy)
    await asyncio.to_thread(etcd.start)
    await east.live()
    await bench.leader()

    async def newer() -> bool:
        return (await stub.Deploy(api.DeployRequest(spec=spec(cpus=4)), timeout=60)).revision >= 3

    await eventually(newer)
    await stub.Deploy(api.DeployRequest(spec=spec(cpus=5)), timeout=60)
    await stub.Deploy(api.DeployRequest(spec=spec("other")), timeout=60)
    await bench.placed("east", generation=1, revision=4)
    await bench.placed("east", generation=1, key=OTHER)
    before = await stored(bench)

    def roll_back() -> None:
        etcd.kill()
        shutil.rmtree(data)
        shutil.copytree(copy, data)
        etcd.start()

    await asyncio.to_thread(roll_back)

    async def up_to_date() -> bool:
        found = await stored(bench)
        assert found.get(keys.spec(SHOP)) == before[keys.spec(SHOP)]
        assert set(found) == set(before)
        return bool(await stored(bench, OTHER))

    await eventually(up_to_date)
    await east.live()
    await bench.placed("east", generation=1, revision=4)
    await bench.placed("east", generation=1, key=OTHER)


async def test_empty_memory_and_empty_store_are_filled_from_work_orders(bench: Bench, etcd: EtcdCluster) -> None:
    keeper = await bench.keeper()
    east = await bench.cluster("east", masters=("default/shop",))
    uid = await deployed(bench, keeper.stub)
    order = (await bench.placements())["east"]
    await asyncio.to_thread(keeper.process.kill)
    await wipe(etcd)
    again = await bench.keeper("k1")
    await east.live()
    await bench.leader()
    await bench.client.put(keys.placement("east", SHOP), encode(order))

    async def restored() -> bool:
        view = await again.stub.GetApplication(name_of(), timeout=60)
        assert (view.stored.uid, view.stored.revision) == (uid, 3)
        assert (view.decision.cluster, view.decision.generation) == ("east", 1)
        return "restored from the work order of cluster east" in view.message

    await eventually(restored)
    await bench.placed("east", generation=1, revision=3)


async def test_a_spec_without_decision_waits_for_the_master_that_runs(bench: Bench) -> None:
    keeper = await bench.keeper(adopt_grace_s=20.0)
    await bench.leader()
    await bench.cluster("east", cpus=64)
    await bench.cluster("west", masters=("default/shop",))

    async def known() -> bool:
        return len((await keeper.stub.ListClusters(api.ListClustersRequest(), timeout=60)).clusters) == 2

    await eventually(known)
    of = pb.StoredSpec(spec=spec(), revision=2, uid="u")
    await bench.client.put(keys.spec(SHOP), encode(of))
    order = pb.Placement(cluster="west", generation=5, stored=of)
    await bench.client.put(keys.placement("west", SHOP), encode(order))
    await bench.placed("west", generation=5, revision=2)
    found = await eventually(bench.decision)
    assert (found.cluster, found.generation) == ("west", 5)


async def test_a_deletion_is_remembered_by_its_tombstone(bench: Bench, etcd: EtcdCluster) -> None:
    keeper = await bench.keeper()
    await bench.cluster("east")
    await deployed(bench, keeper.stub)
    order = (await bench.placements())["east"]
    await keeper.stub.DeleteApplication(name_of(), timeout=60)

    async def gone() -> bool:
        return not await stored(bench) and not await bench.placements()

    async def forgotten() -> bool:
        try:
            await keeper.stub.GetApplication(name_of(), timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND
        return False

    await eventually(gone)
    await eventually(forgotten)  # by the keeper itself, before its memory is all there is
    await wipe(etcd)

    async def tombstone() -> bool:
        return await bench.client.get(keys.deleted(SHOP, order.stored.uid)) is not None

    await eventually(tombstone)
    await bench.client.put(keys.placement("east", SHOP), encode(order))
    await eventually(gone, what="the late work order of a deleted application is taken away")
