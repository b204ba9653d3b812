"""A Ray cluster of two nodes: replicas that listen everywhere are known by the address of their own node."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving._proto import records_pb2 as pb
from serving.errors import FailedPrecondition
from serving.local.process import Process, log_tail
from serving.store import keys
from serving.store.keys import AppKey
from serving.store.records import decode
from tests.integration.master.asking import application, clients, packed_code, says
from tests.integration.master.small_mesh import CLUSTER, ROOT, Keeper, SmallMesh, classify, spec, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
SECOND = "127.0.0.2"
TRIES = 3  # Ray gives a node 30 s, whatever the machine does


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[SmallMesh]:
    """A mesh of its own, whose agent has replicas listen on every address."""
    mesh = SmallMesh(tmp_path / "mesh")
    try:
        mesh.start_agent(listen_host="0.0.0.0")
        yield mesh
    finally:
        mesh.stop()


# As Ray's own test clusters do it: `ray start` refuses a second node where addresses are left on loopback.
NODE = """
import json, signal, sys
import ray._private.node
from ray._private.parameter import RayParams
node = ray._private.node.Node(RayParams(**json.loads(sys.argv[1])), head=False, shutdown_at_exit=True)
print("started", flush=True)
signal.sigwait({signal.SIGTERM})
node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
"""


@pytest.fixture
def second_node(wide: SmallMesh, tmp_path: Path) -> Iterator[Process]:
    """Another node of the cluster, with a resource that only it has."""
    options = {
        "gcs_address": wide.ray.address,
        "node_ip_address": SECOND,
        "num_cpus": 2,
        "num_gpus": 0,
        "resources": {"second": 1},
        "labels": {"zone": "b"},
        "object_store_memory": 100_000_000,
        "node_manager_port": 0,
        "dashboard_agent_listen_port": None,
        "min_worker_port": 0,
        "max_worker_port": 0,
        "include_log_monitor": False,
    }
    env = {**wide.ray.client_env, "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", NODE, json.dumps(options)]
    for number in range(TRIES):
        log = tmp_path / f"second-{number}.log"
        node = Process.start("second node", command, log_file=log, env=env)
        try:
            node.wait_ready(lambda log=log: "started" in log_tail(log).splitlines(), timeout_s=120)
            yield node
            return
        except FailedPrecondition as error:
            if number + 1 == TRIES or "timed out during startup" not in error.message:
                raise
        finally:
            node.stop(grace_s=30)


async def numbers(address: str) -> str:
    """What a process of the mesh tells Prometheus."""
    url = f"http://{address}/metrics"
    return (await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=60).read())).decode()


@pytest.mark.usefixtures("second_node")
async def test_each_replica_is_known_by_its_nodes_address(wide: SmallMesh) -> None:
    client = wide.client()
    try:
        keeper = Keeper(client, AppKey("default", "two-nodes"))
        wanted = spec(keeper.app, wide.repository())
        there = wanted.deployments.add()
        there.CopyFrom(wanted.deployments[0])
        there.name = "there"
        there.resources.custom["second"] = 1
        await keeper.place(wanted)
        status = await keeper.wait_ready()
        assert "mesh_master_replicas{" in await numbers(status.metrics_address)
        kv = await client.get(keys.cluster(CLUSTER))
        assert kv is not None
        assert "mesh_agent_placements{" in await numbers(decode(pb.ClusterRecord, kv.value).metrics_address)
        found = {endpoint.deployment: endpoint for endpoint, _ in (await keeper.endpoints()).values()}
        assert found["there"].address.startswith(f"{SECOND}:")
        assert found["there"].metrics_address.startswith(f"{SECOND}:")
        assert len(await classify(found["there"].address, np.zeros((3, 64), np.float32))) == 3
        await keeper.delete()
        await keeper.wait_gone()
    finally:
        await client.close()


@pytest.mark.usefixtures("second_node")
async def test_replicas_are_on_the_nodes_that_the_spec_wants(wide: SmallMesh) -> None:
    client = wide.client()
    try:
        keeper = Keeper(client, AppKey("default", "nodes"))
        wanted = spec(keeper.app, wide.repository(), replicas=2)
        wanted.deployments[0].scheduling.strategy = "spread"
        there = wanted.deployments.add()
        there.CopyFrom(wanted.deployments[0])
        there.name = "there"
        there.scheduling.strategy = "pack"
        there.scheduling.node_labels["zone"] = "b"
        await keeper.place(wanted)
        status = await keeper.wait_ready()
        nodes = {one.name: [replica.node for replica in one.replicas] for one in status.deployments}
        assert len(set(nodes["digits"])) == 2, "spread"
        assert len(set(nodes["there"])) == 1, "only one node has the label"
        found = [endpoint for endpoint, _ in (await keeper.endpoints()).values() if endpoint.deployment == "there"]
        assert all(endpoint.address.startswith(f"{SECOND}:") for endpoint in found)
        wanted.deployments[1].replicas.min = wanted.deployments[1].replicas.max = 3
        await keeper.place(wanted)
        grown = await keeper.wait_ready()
        assert {replica.node for replica in grown.deployments[1].replicas} == set(nodes["there"])
        await keeper.delete()
        await keeper.wait_gone()
    finally:
        await client.close()


async def test_a_node_that_dies_under_traffic_fails_no_request(wide: SmallMesh, second_node: Process) -> None:
    client = wide.client()
    try:
        keeper = Keeper(client, AppKey("default", "removed"))
        wanted = says(packed_code(wide), 1, replicas=4)
        wanted.scheduling.strategy = "spread"
        await keeper.place(application(keeper, wanted))
        before = await keeper.wait_ready()
        lost = {one.id for one in before.deployments[0].replicas if one.address.startswith(f"{SECOND}:")}
        assert 0 < len(lost) < 4
        async with clients(keeper, workers=4) as asking:
            await asking.since_now(50)
            await asyncio.to_thread(second_node.kill)

            async def replaced() -> bool:
                ready = [one for one, _ in (await keeper.endpoints()).values() if one.state == "ready"]
                return len(ready) == 4 and not any(one.address.startswith(f"{SECOND}:") for one in ready)

            await until(replaced, timeout_s=180)
            await asking.since_now(50)
        assert not asking.failures
        await keeper.delete()
        await keeper.wait_gone()
    finally:
        await client.close()
