"""The numbers of masters, agents and clients, as Prometheus reads them."""

from __future__ import annotations

import asyncio
import urllib.request

from prometheus_client import CollectorRegistry, generate_latest

from serving._proto import records_pb2 as pb
from serving.cluster_agent.metrics import AgentCollector, AgentNumbers
from serving.cluster_agent.model import ClusterFacts
from serving.cluster_agent.record import cluster_record
from serving.control import Controller, Done, Outcome
from serving.discovery.client_config import ClientStats
from serving.master.metrics import CanaryNumbers, MasterCollector, MasterNumbers
from serving.master.model import ActorRow, ActorState, Replica
from serving.master.names import ReplicaName
from serving.master.phases import ReplicaState
from serving.observe import ClientCollector, reached_by, serve_collector
from serving.store.keys import AppKey

APP = AppKey("default", "digits")


def replica(index: int, state: ReplicaState, *, restarts: int = 0) -> tuple[ReplicaName, Replica]:
    name = ReplicaName(APP, 1, "main", 3, index)
    return name, Replica(name=name, state=state, since=0.0, present=True, restarts=restarts)


def text_of(collector: MasterCollector | AgentCollector | ClientCollector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def test_a_master_tells_states_restarts_and_revisions() -> None:
    rows = dict([replica(0, ReplicaState.READY, restarts=2), replica(1, ReplicaState.STARTING)])
    numbers = MasterNumbers(rows, {"main": 2}, 1, 3, 2, 1, 4.5, {"main": CanaryNumbers(0.05, 1, failed=False)})
    text = text_of(MasterCollector(lambda: numbers, namespace="default", application="digits"))
    app = 'application="digits",deployment="main",namespace="default"'
    for line in (
        f'mesh_master_replicas{{{app},state="ready"}} 1.0',
        f'mesh_master_replicas{{{app},state="failed"}} 0.0',
        f"mesh_master_replica_restarts{{{app}}} 2.0",
        f"mesh_master_replicas_wanted{{{app}}} 2.0",
        f"mesh_master_canary_share{{{app}}} 0.05",
        f"mesh_master_canary_step{{{app}}} 1.0",
        f"mesh_master_canary_failed{{{app}}} 0.0",
        'mesh_master_revision_wanted{application="digits",namespace="default"} 3.0',
        'mesh_master_revision_serving{application="digits",namespace="default"} 2.0',
        'mesh_master_store_away_seconds{application="digits",namespace="default"} 4.5',
    ):
        assert line in text.splitlines()


def test_an_agent_tells_placements_and_master_restarts() -> None:
    actors = (
        ActorRow("master:default/digits:g1", "a", ActorState.ALIVE, restarts=3),
        ActorRow("replica:default/digits:g1:main-r1-0", "b", ActorState.ALIVE, restarts=9),
    )
    numbers = AgentNumbers(actors, 2, 1, 0, 1, True, 0.0, 0.0)
    text = text_of(AgentCollector(lambda: numbers, "east"))
    for line in (
        'mesh_agent_masters{cluster="east",state="alive"} 1.0',
        'mesh_agent_placements{cluster="east"} 1.0',
        'mesh_agent_master_restarts{cluster="east"} 3.0',
        'mesh_agent_actors{cluster="east"} 2.0',
        'mesh_agent_masters_killed_total{cluster="east"} 1.0',
        'mesh_agent_registered{cluster="east"} 1.0',
    ):
        assert line in text.splitlines()


def test_a_client_tells_what_it_counts() -> None:
    stats = ClientStats(requests=5, failed=1, in_flight=2, failed_by_code={"UNAVAILABLE": 1})
    text = text_of(ClientCollector(lambda: stats, labels={"application": "digits"}))
    for line in (
        'mesh_client_requests_total{application="digits"} 5.0',
        'mesh_client_in_flight{application="digits"} 2.0',
        'mesh_client_failed_by_code_total{application="digits",code="UNAVAILABLE"} 1.0',
    ):
        assert line in text.splitlines()
    assert {f"mesh_client_{name}" for name in ClientStats().as_dict()} <= {
        line.split()[2].removesuffix("_total") for line in text.splitlines() if line.startswith("# TYPE")
    }


async def test_they_are_served_with_the_loops_own_and_found_by_the_record() -> None:
    async def work(_: str) -> Outcome:
        return Done()

    loop: Controller[str] = Controller("agent", work)
    collector = AgentCollector(lambda: AgentNumbers((), 0, 0, 0, 0, False, 0.0, 0.0), "east")
    server = await serve_collector(collector, loop, host="127.0.0.1")
    assert server is not None
    try:
        address = reached_by(server, advertise_host="", listen_host="127.0.0.1", node_address="10.0.0.7")
        record = cluster_record("east", "id", {}, ClusterFacts((), ()), 0.0, metrics_address=address)
        url = f"http://{record.metrics_address}/metrics"
        text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=60).read())).decode()
        assert 'mesh_agent_nodes{cluster="east"} 0.0' in text
        assert "mesh_controller_run_seconds" in text
        port = address.rpartition(":")[2]
        for advertise, listen, found in (
            ("", "0.0.0.0", f"10.0.0.7:{port}"),
            ("", "::", f"10.0.0.7:{port}"),
            ("node", "0.0.0.0", f"node:{port}"),
            ("", "fe80::1", f"[fe80::1]:{port}"),
        ):
            told = reached_by(server, advertise_host=advertise, listen_host=listen, node_address="10.0.0.7")
            assert told == found
    finally:
        await server.close()


async def test_where_nothing_can_be_listened_on_the_process_goes_on() -> None:
    async def work(_: str) -> Outcome:
        return Done()

    collector = AgentCollector(lambda: AgentNumbers((), 0, 0, 0, 0, False, 0.0, 0.0), "east")
    server = await serve_collector(collector, Controller("agent", work), host="192.0.2.1")
    assert reached_by(server, advertise_host="", listen_host="192.0.2.1", node_address="") == ""


def test_the_status_has_a_place_for_the_address() -> None:
    assert "metrics_address" in pb.ApplicationStatus.DESCRIPTOR.fields_by_name
