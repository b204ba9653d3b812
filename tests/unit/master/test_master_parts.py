"""Names, configuration, memory, goals, crash loops, launches and single decisions of the plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from master_world import APP, name_of

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig, TlsConfig
from serving.errors import DataLoss, InvalidArgument, NotSupported
from serving.master.config import MasterConfig
from serving.master.crash_loop import BackoffLimits, fold
from serving.master.memory import Memory, newest
from serving.master.model import EndpointFact, Goal, KillReplica, Replica, RevokeLease, Situation
from serving.master.names import MasterName, ReplicaName, parse_master, parse_replica
from serving.master.order import goals, supersedes
from serving.master.phases import ReplicaState
from serving.master.plan import KILL_PATIENCE_S, plan
from serving.master.replica_config import ActorClass, PythonActorClass, build_launch, build_update, merged_env
from serving.store.keys import AppKey
from serving.store.records import decode

CONFIG = MasterConfig(
    cluster="east",
    etcd=EtcdConfig(("h:1",), tls=TlsConfig(ca_file="ca"), user="u", password_file="p"),
    python="/py",
    cache_dir="/cache",
    mesh_dir="/mesh",
    replica_env={"A": "1"},
)


def deployment(name: str = "digits", **more: object) -> pb.DeploymentSpec:
    return pb.DeploymentSpec(
        name=name,
        replicas=pb.Replicas(min=2, max=2),
        triton=pb.TritonDeployment(repository=pb.Artifact(uri="file:///a.tar", digest="sha256:0", size_bytes=9)),
        **more,  # type: ignore[arg-type]
    )


def order(
    revision: int = 1, *, generation: int = 1, uid: str = "u", spec: pb.DeploymentSpec | None = None
) -> pb.Placement:
    application = pb.ApplicationSpec(namespace="default", name="digits", deployments=[spec or deployment()])
    stored = pb.StoredSpec(spec=application, revision=revision, uid=uid)
    return pb.Placement(cluster="east", generation=generation, stored=stored)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 1000), st.sampled_from(["a", "a-r1-2", "x-r9"]))
def test_names_come_back_from_text(generation: int, revision: int, index: int, deployment_name: str) -> None:
    name = ReplicaName(AppKey("ns", "app"), generation, deployment_name, revision, index)
    assert parse_replica(str(name)) == name
    master = MasterName(AppKey("ns", "app"), generation)
    assert parse_master(str(master)) == master
    assert parse_master(str(name)) is None
    assert parse_replica(str(master)) is None


@pytest.mark.parametrize("text", ["", "master:a:g1", "replica:a/b:g1:x", "replica:a/b:gx:d-r1-0", "other"])
def test_strangers_names_are_nobodys(text: str) -> None:
    assert parse_master(text) is None
    assert parse_replica(text) is None


def test_the_configuration_survives_its_way_to_the_actor() -> None:
    for config in (CONFIG, replace(CONFIG, require_keys=True)):
        assert MasterConfig.from_json(config.to_json()) == config
    for rubbish in ("", "{}", "[]", '{"etcd": 1}'):
        with pytest.raises(InvalidArgument, match="master's configuration"):
            MasterConfig.from_json(rubbish)


def test_a_later_order_is_remembered_over_a_restart_and_another_generation_is_not() -> None:
    kept = Memory.from_bytes(Memory(order(5), stopping=True).to_bytes())
    assert newest(order(3), kept) == Memory(order(5), stopping=True)
    assert newest(order(6), kept).order.stored.revision == 6
    assert newest(order(3, generation=2), kept) == Memory(order(3, generation=2))
    with pytest.raises(DataLoss):
        Memory.from_bytes(b"{}")


def test_only_a_later_revision_of_the_same_placement_supersedes() -> None:
    own = order(2)
    assert supersedes(order(3), own)
    for other in (order(2), order(1), order(3, generation=2), order(3, uid="v")):
        assert not supersedes(other, own)


def test_goals_know_which_revisions_are_as_good() -> None:
    more = deployment()
    more.replicas.min = 5
    changed = deployment(env={"X": "1"})
    specs = {1: order(1).stored.spec, 2: order(2, spec=changed).stored.spec, 3: None}
    (goal,) = goals(order(9, spec=more), {1, 2, 3, 4, 9}, specs)
    assert (goal.replicas, goal.revision) == (5, 9)
    assert goal.same == {1}, "only the number of replicas differs"
    assert goal.unknown == {4}, "nobody has said yet: neither old nor new"
    assert goal.updatable == frozenset()


def test_goals_know_from_which_revisions_other_models_are_enough() -> None:
    def with_models(digest: str, **more: object) -> pb.DeploymentSpec:
        spec = deployment(**more)
        spec.triton.repository.digest = digest
        return spec

    wanted = with_models("sha256:9")
    wanted.triton.models.append("digits")
    wanted.triton.update = "in_place"
    specs = {
        1: order(1, spec=with_models("sha256:1")).stored.spec,
        2: order(2, spec=with_models("sha256:2", env={"X": "1"})).stored.spec,
        3: order(3, spec=wanted).stored.spec,
    }
    (goal,) = goals(order(9, spec=wanted), {1, 2, 3, 9}, specs)
    assert (goal.updatable, goal.same) == ({1}, {3}), "another environment needs another process"
    wanted.triton.update = "replace"
    (goal,) = goals(order(9, spec=wanted), {1, 2, 3, 9}, specs)
    assert (goal.updatable, goal.same) == (frozenset(), {3})


def test_a_launch_holds_all_that_the_spec_asks_for() -> None:
    spec = deployment(
        env={"B": "2"},
        max_restarts=-1,
        resources=pb.Resources(cpus=0.5, gpus=1, accelerator_type="H200", memory_bytes=7),
    )
    name = ReplicaName(APP, 1, "digits", 1, 0)
    launch = build_launch(CONFIG, order(spec=spec), name)
    assert (launch.num_cpus, launch.num_gpus, launch.memory_bytes, launch.max_restarts) == (0.5, 1.0, 7, -1)
    assert launch.resources == {"accelerator_type:H200": 0.001}
    assert launch.env == {"A": "1", "B": "2"}
    assert str(launch.log_file) == "/mesh/logs/replicas/default/digits/digits/digits-r1-0.log"
    for part in (
        '"id": "digits-r1-0"',
        '"serving.deployment.prepare"',
        '"sha256:0"',
        '"passwordFile": "p"',
        '"ca": "ca"',
    ):
        assert part in launch.config_json
    with pytest.raises(NotSupported, match="digits"):
        build_launch(CONFIG, order(spec=pb.DeploymentSpec(name="digits")), name)


def test_a_proxy_gets_its_policy_and_the_keys_of_the_replicas() -> None:
    spec = pb.DeploymentSpec(name="grpc", proxy=pb.ProxyDeployment(hold_s=3, busy_poll_us=50), drain_timeout_s=7)
    spec.proxy.policy.update({"choice": "least_latency"})
    name = ReplicaName(APP, 4, "grpc", 2, 1)
    tls = TlsConfig(ca_file="ca", cert_file="cert", key_file="key")
    launch = build_launch(replace(CONFIG, serving_tls=tls), order(spec=spec), name)
    config = decode(pb.ProxyConfig, launch.config_json.encode())
    assert launch.actor == ActorClass("CreateProxyActor", "ProxyActor")
    assert (config.id, config.deployment, config.generation, config.revision) == ("grpc-r2-1", "grpc", 4, 2)
    assert (config.hold_s, config.drain_timeout_s, config.policy["choice"]) == (3, 7, "least_latency")
    assert config.busy_poll_us == 50
    assert (config.etcd.endpoints, config.etcd.tls.ca, config.etcd.user) == (["h:1"], "ca", "u")
    assert config.endpoint_tls == config.serving_tls == pb.TlsFiles(ca="ca", cert="cert", key="key")
    assert config.log_file == "/mesh/logs/replicas/default/digits/grpc/grpc-r2-1.log"


def test_an_http_proxy_becomes_a_python_actor() -> None:
    spec = pb.DeploymentSpec(name="http", proxy=pb.ProxyDeployment(protocol="http", hold_s=3), drain_timeout_s=7)
    name = ReplicaName(APP, 4, "http", 2, 1)
    tls = TlsConfig(ca_file="ca", cert_file="cert", key_file="key")
    launch = build_launch(replace(CONFIG, serving_tls=tls, require_keys=True), order(spec=spec), name)
    config = decode(pb.ReplicaConfig, launch.config_json.encode())
    assert launch.actor == PythonActorClass("serving.http_proxy.actor", "HttpProxyActor")
    assert (config.id, config.deployment, config.generation, config.revision) == ("http-r2-1", "http", 4, 2)
    assert (config.proxy.hold_s, config.drain_timeout_s, config.require_keys) == (3, 7, True)
    assert config.serving_tls == pb.TlsFiles(ca="ca", cert="cert", key="key")
    unsaid = decode(pb.ReplicaConfig, build_launch(CONFIG, order(spec=spec), name).config_json.encode())
    assert not unsaid.HasField("require_keys")


def python(config: str = "", **more: object) -> pb.DeploymentSpec:
    made = pb.PythonDeployment(entry="m:C", config=config, **more)  # type: ignore[arg-type]
    return pb.DeploymentSpec(name="digits", replicas=pb.Replicas(min=2, max=2), python=made)


def test_a_python_deployment_becomes_a_python_actor() -> None:
    spec = python("{}", code=pb.Artifact(uri="file:///a.tar", digest="sha256:0"), args='{"a": 1}')
    launch = build_launch(CONFIG, order(2, generation=4, spec=spec), ReplicaName(APP, 4, "digits", 2, 1))
    config = decode(pb.ReplicaConfig, launch.config_json.encode())
    assert launch.actor == PythonActorClass("serving.python_deployment.actor", "PythonActor")
    assert (config.id, config.generation, config.revision, config.cache_dir) == ("digits-r2-1", 4, 2, "/cache")
    assert config.python == spec.python
    assert not config.prepare_command
    assert not config.HasField("triton")


def test_only_the_config_of_a_python_deployment_changes_in_place() -> None:
    def goal_of(new: pb.DeploymentSpec, old: pb.DeploymentSpec) -> Goal:
        before = pb.ApplicationSpec(namespace="default", name="digits", deployments=[old])
        (found,) = goals(order(2, spec=new), [1], {1: before})
        return found

    assert goal_of(python("{}"), python('{"a": 1}')).updatable == {1}
    assert goal_of(python("{}"), python("{}")).same == {1}
    for other in (python(args='{"a": 2}'), python(model="m"), deployment()):
        goal = goal_of(python("{}"), other)
        assert (goal.same, goal.updatable) == (set(), set())
    update = build_update(CONFIG, order(2, spec=python('{"a": 2}')), ReplicaName(APP, 1, "digits", 1, 0), 2)
    told = decode(pb.ReplicaUpdate, update.encode())
    assert (told.config, told.revision, list(told.prepare_command), list(told.models)) == ('{"a": 2}', 2, [], [])


def ready(text: str, **more: object) -> Replica:
    return replace(Replica(name=name_of(text), state=ReplicaState.READY, since=0.0, present=True, pid=7), **more)  # type: ignore[arg-type]


def failed(text: str) -> Replica:
    return replace(ready(text), state=ReplicaState.FAILED, since=100.0, reason="bad")


def test_failures_in_a_row_wait_longer_and_a_new_revision_starts_afresh() -> None:
    limits = BackoffLimits(first_s=2.0, longest_s=10.0)
    goal = Goal("digits", 1, 1)
    loops = fold({}, [goal], {}, [failed("digits-r1-0")], limits, 100.0)
    assert (loops["digits"].failures, loops["digits"].retry_at) == (1, 102.0)
    same = fold(loops, [goal], {"digits-r1-0": failed("digits-r1-0")}, [failed("digits-r1-0")], limits, 101.0)
    assert same == loops, "one failure counts once"
    waits = [limits.wait_s(number) for number in range(1, 6)]
    assert waits == [2.0, 4.0, 8.0, 10.0, 10.0]
    assert fold(loops, [replace(goal, revision=2)], {}, [], limits, 101.0) == {}


def test_one_that_served_for_long_is_replaced_without_waiting() -> None:
    before = {"digits-r1-0": ready("digits-r1-0")}
    assert fold({}, [Goal("digits", 1, 1)], before, [failed("digits-r1-0")], BackoffLimits(), 100.0) == {}


@pytest.mark.parametrize(
    ("row", "pid", "revoked"),
    [
        (None, 7, True),
        (ready("digits-r1-0"), 7, False),
        (ready("digits-r1-0", pid=8), 7, True),
        (ready("digits-r1-0", process_gone=True), 7, True),
        (ready("digits-r1-0", state=ReplicaState.UNHEALTHY), 7, True),
        (ready("digits-r1-0", state=ReplicaState.DRAINING), 7, False),
    ],
)
def test_leases_of_dead_processes_are_revoked_and_of_living_ones_never(
    row: Replica | None, pid: int, revoked: bool
) -> None:
    rows = (row,) if row is not None else ()
    situation = Situation(1, (Goal("digits", 1, 1),), rows, endpoints=(EndpointFact("digits-r1-0", 1, pid, 99),))
    actions = plan(APP, situation, 10.0).actions
    assert any(isinstance(action, RevokeLease) and action.lease == 99 for action in actions) is revoked
    again = plan(APP, replace(situation, revoked=frozenset({99})), 10.0).actions
    assert not any(isinstance(action, RevokeLease) for action in again)
    other = replace(situation, generation=2)
    assert not any(isinstance(action, RevokeLease) for action in plan(APP, other, 10.0).actions)


def test_a_hung_process_is_killed_once_until_ray_had_time_to_end_it() -> None:
    hung = ready("digits-r1-0", state=ReplicaState.UNHEALTHY)
    situation = Situation(1, (Goal("digits", 1, 1),), (hung,))
    assert KillReplica(hung.name, restart=True, why="it does not answer") in plan(APP, situation, 10.0).actions
    told = replace(situation, replicas=(replace(hung, killed_pid=7, killed_at=10.0),))
    assert not plan(APP, told, 10.0 + KILL_PATIENCE_S - 1).actions
    assert plan(APP, told, 10.0 + KILL_PATIENCE_S).actions
    restarted = replace(situation, replicas=(replace(hung, pid=8, killed_pid=7, killed_at=10.0),))
    assert plan(APP, restarted, 11.0).actions


def test_what_a_former_generation_left_is_drained_and_a_later_one_is_not_touched() -> None:
    stale, own = ready("digits-r1-0"), ready("digits-r1-0")
    own = replace(own, name=replace(own.name, generation=2))
    later = replace(own, name=replace(own.name, generation=3))
    actions = plan(APP, Situation(2, (Goal("digits", 1, 1),), (stale, own, later)), 10.0).actions
    assert [action.name for action in actions] == [stale.name]  # type: ignore[union-attr]


def test_a_library_path_of_the_spec_is_searched_after_ours() -> None:
    ours = {"LD_LIBRARY_PATH": "/ours", "A": "1", "B": "1"}
    assert merged_env(ours, {"LD_LIBRARY_PATH": "/theirs:/more", "B": "2"}) == {
        "LD_LIBRARY_PATH": "/ours:/theirs:/more",
        "A": "1",
        "B": "2",
    }
    assert merged_env({}, {"LD_LIBRARY_PATH": "/theirs"}) == {"LD_LIBRARY_PATH": "/theirs"}
    assert merged_env(ours, {"LD_LIBRARY_PATH": ""})["LD_LIBRARY_PATH"] == "/ours"
    assert merged_env({}, {"B": "2"}) == {"B": "2"}
