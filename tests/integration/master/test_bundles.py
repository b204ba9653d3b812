"""Replicas that reserve room for actors of their own: one placement group for each, gone with its replica."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from textwrap import dedent

import pytest

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.master.names import parse_replica
from serving.store import keys
from serving.store.records import decode
from tests.integration.master.small_mesh import CLUSTER, Keeper, SmallMesh, until
from tests.integration.master.test_python_deployments import address_of, application, python, scaled
from tests.support.processes import master_pids

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

TEAM = """
import asyncio

import ray

from help import twice
from serving.python_deployment import Tensor


@ray.remote(num_cpus=1)
class Worker:
    def work(self, values):
        return twice(values), ray.get_runtime_context().get_placement_group_id()


class Team:
    inputs = (Tensor("x", "FP32", (-1,)),)

    def __init__(self):
        self.workers = [Worker.remote() for _ in range(2)]

    async def infer(self, request):
        parts = await asyncio.gather(*(worker.work.remote(request["x"]) for worker in self.workers))
        assert parts[0][1] == parts[1][1] is not None
        return {"y": parts[0][0] + parts[1][0]}
"""


def team(mesh: SmallMesh, *, replicas: int = 1, bundles: int = 2, cpus: float = 1.0) -> pb.DeploymentSpec:
    folder = mesh.directory / "team-code"
    folder.mkdir(exist_ok=True)
    (folder / "team.py").write_text(dedent(TEAM))
    (folder / "help.py").write_text("def twice(values):\n    return values * 2\n")
    made = python(mesh, "Team", name="team", replicas=replicas)
    made.python.entry = "team:Team"
    made.python.code.CopyFrom(pack(folder, (mesh.directory / "artifacts").as_uri()))
    made.scheduling.node_labels["zone"] = "a"
    for _ in range(bundles):
        made.scheduling.bundles.add(cpus=cpus)
    return made


# Prints the names of all groups that there are. A process of its own, as Ray reads its settings when it is imported.
LIST = """
import sys
import ray
from ray.util.placement_group import placement_group_table
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
print(*(row["name"] for row in placement_group_table().values() if row["state"] != "REMOVED"), sep="\\n")
"""


async def groups(mesh: SmallMesh, keeper: Keeper) -> list[str]:
    """The names of the application's replicas that have a group."""
    command = [sys.executable, "-c", LIST, mesh.ray.address]
    env = {**os.environ, **mesh.ray.client_env}
    told = await asyncio.to_thread(subprocess.run, command, env=env, check=True, capture_output=True, text=True)
    named = [line.partition("|")[2] for line in told.stdout.splitlines()]
    return sorted(name for name in named if (parsed := parse_replica(name)) and parsed.app == keeper.app)


async def until_groups(mesh: SmallMesh, keeper: Keeper, count: int) -> None:
    async def so_many() -> bool:
        return len(await groups(mesh, keeper)) == count

    await until(so_many)


async def test_its_own_actors_run_in_what_it_reserved(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(application(keeper, team(mesh)))
    status = await keeper.wait_ready()
    assert await scaled(await address_of(keeper, replica_of(status)), 1, 2, model="team") == [4, 8]
    assert len(await groups(mesh, keeper)) == 1

    async def counted() -> bool:
        kv = await keeper.client.get(keys.cluster(CLUSTER))
        return kv is not None and round(decode(pb.ClusterRecord, kv.value).mesh_used.cpus, 3) >= 2.1

    await until(counted)  # what is reserved is used, also by the actors that the mesh does not know
    os.kill(row_pid(status), signal.SIGKILL)

    async def again() -> bool:
        with contextlib.suppress(Exception):
            return await scaled(await address_of(keeper, replica_of(status)), 1, model="team") == [4]
        return False

    await until(again)
    assert len(await groups(mesh, keeper)) == 1, "started again in the group that it had"
    for pid in master_pids(mesh.ray):  # the next one finds the group in Ray's table
        os.kill(pid, signal.SIGKILL)
    await keeper.place(application(keeper, team(mesh, replicas=2)))
    await keeper.wait_status(lambda found: [one.ready for one in found.deployments] == [2])
    assert len(await groups(mesh, keeper)) == 2
    await keeper.place(application(keeper, team(mesh, replicas=1)))
    await until_groups(mesh, keeper, 1)
    await keeper.delete()
    await keeper.wait_gone()
    await until_groups(mesh, keeper, 0)


def replica_of(status: pb.ApplicationStatus) -> str:
    return status.deployments[0].replicas[0].id


def reasons(status: pb.ApplicationStatus) -> list[str]:
    return [row.reason for deployment in status.deployments for row in deployment.replicas]


def row_pid(status: pb.ApplicationStatus) -> int:
    return status.deployments[0].replicas[0].pid


async def test_without_room_it_waits_and_says_for_what(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(application(keeper, team(mesh, cpus=50)))
    status = await keeper.wait_status(lambda found: any("CPU" in reason for reason in reasons(found)))
    assert any("100.1 CPU" in reason for reason in reasons(status)), reasons(status)
    await keeper.delete()
    await keeper.wait_gone()
    await until_groups(mesh, keeper, 0)
