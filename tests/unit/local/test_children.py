"""What keepers and agents are told of the mesh that a file describes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keeper.config import from_mapping
from serving.cluster_agent.config import build
from serving.config import TlsConfig
from serving.errors import FailedPrecondition
from serving.local.children import agent_spec, keeper_spec
from serving.local.plan import external_plan, local_name
from serving.local.supervisor import make_mesh_dir

MESH = """\
name: prod
etcd: {endpoints: ["etcd:2379"], user: mesh, password_file: etcd.password, tls: {ca_file: ca.pem}}
artifacts: ./artifacts
clusters:
  - name: east
    ray_address: ray:6379
    labels: {region: east}
    listen: {host: 0.0.0.0, advertise_host: node-1, tls: {cert_file: replica.pem, key_file: replica.key}}
  - {name: west, ray_address: "ray:6380"}
keepers: 2
listen: {host: "::", advertise_host: keepers.example, tls: {cert_file: keeper.pem, key_file: keeper.key}}
"""


def test_http_proxies_ask_for_keys_where_the_gateway_does(tmp_path: Path) -> None:
    """With `mesh up --require-keys`; a mesh of other machines goes by where its replicas listen."""
    file = tmp_path / "mesh.yaml"
    file.write_text(MESH)
    plan, _ = external_plan(tmp_path, file)
    for asked, told in ((False, None), (True, True)):
        config = build(agent_spec(replace(plan, require_keys=asked), plan.clusters[0]).config, "agent")
        assert (config.require_keys, config.master_config().require_keys) == (told, told)


def test_what_the_file_says_arrives(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text(MESH)
    plan, keepers = external_plan(tmp_path, file)
    keeper = from_mapping(keeper_spec(plan, 1).config, "keeper")
    assert (keepers, keeper.id, keeper.advertise_host) == (2, "keeper-1", "keepers.example")
    assert (keeper.listen, keeper.metrics_listen) == ("[::]:0", "127.0.0.1:0")
    assert keeper.tls == TlsConfig("", str(tmp_path / "keeper.pem"), str(tmp_path / "keeper.key"))
    assert (keeper.etcd.user, keeper.etcd.tls) == ("mesh", TlsConfig(str(tmp_path / "ca.pem")))
    east, west = (build(agent_spec(plan, cluster).config, "agent") for cluster in plan.clusters)
    assert (east.mesh, east.master_config().mesh) == ("prod", "prod")
    assert (east.listen_host, east.advertise_host, east.labels) == ("0.0.0.0", "node-1", {"region": "east"})
    assert east.serving_tls == TlsConfig("", str(tmp_path / "replica.pem"), str(tmp_path / "replica.key"))
    assert (west.listen_host, west.advertise_host, west.serving_tls) == ("127.0.0.1", "", None)


def test_a_local_mesh_keeps_the_name_it_was_given_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    name = local_name(one)
    assert local_name(one) == name
    assert local_name(other) != name
    assert [path.name for path in one.iterdir()] == ["mesh.name"]
    (one / "mesh.name").write_text("Not A Name")
    with pytest.raises(FailedPrecondition, match="no name of a mesh"):
        local_name(one)


def test_the_folder_of_a_mesh_is_its_owners_alone(tmp_path: Path) -> None:
    new, empty, used = tmp_path / "deep" / "new", tmp_path / "empty", tmp_path / "used"
    for folder in (empty, used):
        folder.mkdir()
        folder.chmod(0o755)
    (used / "mesh.yaml").touch()
    for folder in (new, empty, used):
        make_mesh_dir(folder)
    assert [folder.stat().st_mode & 0o777 for folder in (new, empty, used)] == [0o700, 0o700, 0o755]
