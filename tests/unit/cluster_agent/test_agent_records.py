"""The cluster's record, the agent's id and its configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.cluster_agent.__main__ import parse
from serving.cluster_agent.identity import AgentId, is_dead
from serving.cluster_agent.model import ClusterFacts, Node
from serving.cluster_agent.record import cluster_record, same_but_for_time
from serving.config import TlsConfig
from serving.errors import InvalidArgument
from serving.master.model import ActorRow, ActorState


def actor(name: str, state: ActorState, **required: float) -> ActorRow:
    return ActorRow(name, "a", state, required=required)


FACTS = ClusterFacts(
    nodes=(
        Node(
            "n2",
            "10.0.0.2",
            {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H200": 1.0, "memory": 100.0, "node:10.0.0.2": 1.0},
            {"CPU": 5.5, "GPU": 1.0, "memory": 40.0},
        ),
        Node(
            "n1",
            "10.0.0.1",
            {"CPU": 4.0, "npu": 2.0, "node:__internal_head__": 1.0, "object_store_memory": 9.0},
            {"CPU": 4.0},
        ),
    ),
    actors=(
        actor("master:default/digits:g1", ActorState.ALIVE),
        actor("replica:default/digits:g1:digits-r1-0", ActorState.ALIVE, CPU=0.1),
        actor("replica:default/digits:g1:digits-r1-1", ActorState.ALIVE, CPU=0.2, GPU=1.0),
        actor("replica:default/digits:g1:digits-r1-2", ActorState.PENDING, CPU=1.0, npu=5.0),
    ),
    versions={"ray": "2"},
)


def test_the_record_counts_by_type_without_rays_own_marks() -> None:
    record = cluster_record("east", "id", {"region": "x"}, FACTS, 1000.5)
    assert (record.total.cpus, record.total.gpus, record.total.memory_bytes) == (12.0, 2.0, 100)
    assert record.total.accelerator_type == "H200"
    assert dict(record.total.custom) == {"npu": 2.0}
    assert (record.available.cpus, record.available.gpus) == (9.5, 1.0)
    assert record.mesh_used.cpus == 0.3
    assert (record.pending.cpus, record.pending.custom["npu"]) == (1.0, 5.0)
    assert [node.id for node in record.nodes] == ["n1", "n2"]
    assert [node.head for node in record.nodes] == [True, False]
    assert list(record.masters) == ["default/digits"]
    assert record.updated_at.ToMilliseconds() == 1_000_500
    assert same_but_for_time(record, cluster_record("east", "id", {"region": "x"}, FACTS, 2000.0))


def test_an_agent_knows_a_dead_predecessor_of_its_machine_only() -> None:
    mine = AgentId.mine()
    assert AgentId.parse(str(mine)) == mine
    assert not is_dead(str(mine))
    text = str(mine).split("/")
    gone = "/".join([text[0], text[1], text[2], "1", text[4]])
    assert is_dead(gone), "another process has the pid"
    assert not is_dead(gone.replace(text[0], "elsewhere", 1))
    assert not is_dead("rubbish")


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    path.write_text(json.dumps({"cluster": "east", "ray_address": "h:1", "etcd": {"endpoints": ["e:1"]}}))
    config = parse(["--config", str(path), "--cluster", "west", "--labels", "a=b,c=d", "--etcd", "x:1,y:2"])
    assert (config.cluster, config.ray_address, config.etcd.endpoints) == ("west", "h:1", ("x:1", "y:2"))
    assert config.labels == {"a": "b", "c": "d"}
    text = tmp_path / "agent.yaml"
    text.write_text(
        "cluster: east\nray_address: h:1\netcd: {endpoints: ['e:1'], tls: {ca_file: ca.pem}}\nray_away_s: 7\n"
    )
    read = parse(["--config", str(text)])
    assert (read.cluster, read.ray_away_s, read.etcd.tls) == ("east", 7.0, TlsConfig("ca.pem"))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"clster": "x"}, "did you mean `cluster`"),
        ({"cluster": ""}, "`cluster` is missing"),
        ({"cluster": "Not A Name"}, "no name for a cluster"),
        ({"etcd": {"endpoints": ["e:1"], "usr": "x"}}, "etcd: there is no setting `usr`; did you mean `user`"),
        ({"etcd": {"endpoints": []}}, "etcd.endpoints. is empty"),
        ({"lease_ttl_s": "ten"}, "lease_ttl_s: a whole number is wanted, found 'ten'"),
        ({"serving_tls": {"cert_file": 7}}, "serving_tls: cert_file: a text is wanted"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, values: dict[str, object], told: str) -> None:
    path = tmp_path / "agent.json"
    path.write_text(json.dumps({"cluster": "east", "ray_address": "h:1", "etcd": {"endpoints": ["e:1"]}, **values}))
    with pytest.raises(InvalidArgument, match=told):
        parse(["--config", str(path)])
    with pytest.raises(InvalidArgument, match="key=value"):
        parse(["--cluster", "east", "--ray-address", "h:1", "--etcd", "e:1", "--labels", "oops"])
