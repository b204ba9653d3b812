"""The service of one keeper, asked through real gRPC, on a real etcd."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from keeper_harness import SHOP, Bench, eventually, name_of, spec

from serving._proto import keeper_pb2 as api
from serving._proto import records_pb2 as pb
from serving.store import keys
from serving.store.keys import AppKey
from serving.store.records import encode


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


async def test_deploy_get_and_unchanged(bench: Bench) -> None:
    stub = (await bench.keeper()).stub
    await bench.cluster("east")
    first = await stub.Deploy(api.DeployRequest(spec=spec(), author="ann"), timeout=60)
    assert (first.revision, first.changed) == (1, True)
    view = await stub.GetApplication(name_of(), timeout=60)
    assert view.stored.spec == spec()
    assert (view.stored.author, view.stored.uid) == ("ann", first.uid)
    again = await stub.Deploy(api.DeployRequest(spec=spec()), timeout=60)
    assert (again.revision, again.changed, again.uid) == (1, False, first.uid)
    await bench.placed("east", generation=1)

    async def starting() -> bool:
        view = await stub.GetApplication(name_of(), timeout=60)
        return bool(view.phase == pb.STARTING and view.decision.cluster == "east")

    await eventually(starting)


async def test_new_revisions_rollback_and_history(bench: Bench) -> None:
    stub = (await bench.keeper()).stub
    await bench.cluster("east", cpus=64)
    for cpus in range(1, 24):
        await stub.Deploy(api.DeployRequest(spec=spec(cpus=cpus)), timeout=60)
    listed = (await stub.ListRevisions(name_of(), timeout=60)).revisions
    assert [item.revision for item in listed] == list(range(23, 3, -1))
    back = await stub.Rollback(api.RollbackRequest(namespace="default", name="shop", to_revision=5), timeout=60)
    assert (back.revision, back.changed) == (24, True)
    view = await stub.GetApplication(name_of(), timeout=60)
    assert (view.stored.spec, view.stored.note) == (spec(cpus=5), "rollback to revision 5")
    await bench.placed("east", generation=1, revision=24)
    code, text = await refused(
        stub.Rollback(api.RollbackRequest(namespace="default", name="shop", to_revision=1), timeout=60)
    )
    assert code is grpc.StatusCode.NOT_FOUND
    assert "has no revision 1; kept are: 5, 6" in text


async def test_if_revision_and_concurrent_deploys(bench: Bench) -> None:
    one, two = await bench.keeper("k0"), await bench.keeper("k1")
    await one.stub.Deploy(api.DeployRequest(spec=spec(cpus=1)), timeout=60)
    code, text = await refused(one.stub.Deploy(api.DeployRequest(spec=spec(cpus=2), if_revision=7), timeout=60))
    assert code is grpc.StatusCode.ABORTED
    assert text == "revision 7 was expected, the current one is 1; read it and decide again"
    racing = [
        keeper.stub.Deploy(api.DeployRequest(spec=spec(cpus=2 + index), if_revision=1), timeout=30)
        for index, keeper in enumerate((one, two) * 4)
    ]
    ends = await asyncio.gather(*racing, return_exceptions=True)
    won = [end for end in ends if not isinstance(end, BaseException)]
    assert [end.revision for end in won] == [2]
    free = [
        keeper.stub.Deploy(api.DeployRequest(spec=spec(cpus=20 + index)), timeout=30)
        for index, keeper in enumerate((one, two) * 4)
    ]
    assert sorted(end.revision for end in await asyncio.gather(*free)) == list(range(3, 11))


async def test_bad_requests_are_answered_precisely(bench: Bench) -> None:
    stub = (await bench.keeper()).stub
    bad = spec()
    bad.deployments[0].replicas.min = 0
    code, text = await refused(stub.Deploy(api.DeployRequest(spec=bad), timeout=60))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "deployments[0].replicas.min" in text
    code, text = await refused(stub.GetApplication(api.ApplicationName(name="No Name"), timeout=60))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "'No Name' is not a valid name" in text
    for call in (stub.GetApplication, stub.DeleteApplication, stub.ListRevisions):
        assert await refused(call(name_of(), timeout=60)) == (
            grpc.StatusCode.NOT_FOUND,
            "there is no application default/shop",
        )
    await bench.client.put(keys.spec(SHOP), b"rubbish")
    code, text = await refused(stub.ListRevisions(name_of(), timeout=60))
    assert code in (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.NOT_FOUND)


async def test_dry_run_stores_nothing(bench: Bench) -> None:
    stub = (await bench.keeper()).stub
    await bench.cluster("east", cpus=4)

    async def known() -> bool:
        return bool((await stub.ListClusters(api.ListClustersRequest(), timeout=60)).clusters)

    await eventually(known)
    fits = await stub.Deploy(api.DeployRequest(spec=spec(cpus=2), dry_run=True), timeout=60)
    assert (fits.would_place.cluster, fits.would_place.generation, fits.changed) == ("east", 1, True)
    large = await stub.Deploy(api.DeployRequest(spec=spec(cpus=8), dry_run=True), timeout=60)
    assert [(item.cluster, item.reason) for item in large.would_place.reasons] == [
        ("east", "needs 8 CPUs on one node, the largest has 4 for the mesh")
    ]
    assert await bench.client.get(keys.spec(SHOP)) is None


async def test_watch_gives_the_full_picture_then_changes(bench: Bench) -> None:
    keeper = await bench.keeper()
    await bench.cluster("east")
    await keeper.stub.Deploy(api.DeployRequest(spec=spec("a")), timeout=60)
    await keeper.stub.Deploy(api.DeployRequest(spec=spec("b")), timeout=60)
    stream = keeper.stub.WatchApplications(api.WatchApplicationsRequest(), timeout=60)
    seen = []
    while True:
        event = await stream.read()
        if event.synced:
            break
        seen.append(event.application.stored.spec.name)
    assert sorted(set(seen)) == ["a", "b"]
    await keeper.stub.Deploy(api.DeployRequest(spec=spec("b", cpus=2)), timeout=60)
    while event.application.stored.revision != 2:
        event = await stream.read()
    await keeper.stub.DeleteApplication(name_of(AppKey("default", "b")), timeout=60)
    while not event.deleted:
        event = await stream.read()
    assert (event.application.stored.spec.namespace, event.application.stored.spec.name) == ("default", "b")
    assert event.application.stored.revision == 2
    stream.cancel()


async def test_a_watch_opened_after_a_deploy_elsewhere_shows_it(bench: Bench) -> None:
    one, two = await bench.keeper("k0"), await bench.keeper("k1")
    for number in range(10):
        await one.stub.Deploy(api.DeployRequest(spec=spec(f"app-{number}")), timeout=60)
        stream = two.stub.WatchApplications(api.WatchApplicationsRequest(name=f"app-{number}"), timeout=60)
        event = await stream.read()
        assert event.application.stored.spec.name == f"app-{number}"
        stream.cancel()


async def test_slow_watchers_get_the_last_state_and_too_many_are_refused(bench: Bench) -> None:
    keeper = await bench.keeper(max_watchers=2)
    streams = [keeper.stub.WatchApplications(api.WatchApplicationsRequest(), timeout=60) for _ in range(2)]
    for stream in streams:
        assert (await stream.read()).synced
    code, text = await refused(keeper.stub.WatchApplications(api.WatchApplicationsRequest(), timeout=60).read())
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "serves 2 watches already" in text
    for cpus in range(1, 31):
        await keeper.stub.Deploy(api.DeployRequest(spec=spec(cpus=cpus)), timeout=60)
    event = await streams[0].read()
    while event.application.stored.revision != 30:
        event = await streams[0].read()
    streams[0].cancel()
    streams[1].cancel()

    async def room() -> bool:
        stream = keeper.stub.WatchApplications(api.WatchApplicationsRequest(), timeout=60)
        first = await stream.read()
        stream.cancel()
        return bool(first.application.stored.revision == 30)

    await eventually(room)


async def test_quota(bench: Bench) -> None:
    stub = (await bench.keeper(quotas={"default": {"cpus": 4}})).stub
    await stub.Deploy(api.DeployRequest(spec=spec("a", cpus=3)), timeout=60)
    code, text = await refused(stub.Deploy(api.DeployRequest(spec=spec("b", cpus=2)), timeout=60))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4 CPUs allowed, 3 CPUs used by other applications, 2 CPUs asked for" in text


async def test_delete_goes_step_by_step_and_the_name_can_be_used_again(bench: Bench) -> None:
    stub = (await bench.keeper()).stub
    east = await bench.cluster("east")
    first = await stub.Deploy(api.DeployRequest(spec=spec()), timeout=60)
    await bench.placed("east", generation=1)
    status = pb.ApplicationStatus(uid=first.uid, cluster="east", generation=1, revision=1, phase=pb.READY)
    await bench.client.put(keys.status(SHOP), encode(status))
    east.record.masters.append("default/shop")
    await east.write()
    await stub.DeleteApplication(name_of(), timeout=60)
    await stub.DeleteApplication(name_of(), timeout=60)

    async def withdrawn() -> bool:
        return not await bench.placements()

    await eventually(withdrawn)

    async def says_what_is_waited_for() -> bool:
        view = await stub.GetApplication(name_of(), timeout=60)
        said = (view.phase, view.message)
        return said == (pb.DELETING, "waiting for the application to end on cluster east")

    await eventually(says_what_is_waited_for)
    code, text = await refused(stub.Deploy(api.DeployRequest(spec=spec()), timeout=60))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "is being deleted" in text
    await bench.client.delete(keys.status(SHOP))
    del east.record.masters[:]
    await east.write()

    async def gone() -> bool:
        code, _ = await refused(stub.GetApplication(name_of(), timeout=60))
        return code is grpc.StatusCode.NOT_FOUND and not (await bench.client.get_prefix(keys.app(SHOP))).kvs

    await eventually(gone)
    second = await stub.Deploy(api.DeployRequest(spec=spec()), timeout=60)
    assert second.uid != first.uid
    await bench.placed("east", generation=2)


async def test_health_and_pages(bench: Bench) -> None:
    keeper = await bench.keeper()
    assert keeper.channel is not None
    check = keeper.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=Int32Value.FromString,
    )
    assert (await check(StringValue(value="mesh.v1.Keeper"), timeout=60)).value == 1
    assert (await refused(check(StringValue(value="nobody"), timeout=60)))[0] is grpc.StatusCode.NOT_FOUND
    await bench.leader()
    assert "mesh_keeper_applications" in await keeper.page("/metrics")

    async def told() -> bool:
        return "leads" in [event["kind"] for event in await keeper.events()]

    await eventually(told)
    assert "there are /metrics" in await keeper.page("/other")


async def test_an_expired_deadline_is_said_so(bench: Bench) -> None:
    stub = (await bench.keeper()).stub
    code, _ = await refused(stub.GetApplication(name_of(), timeout=0.0005))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
