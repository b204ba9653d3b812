"""Where a connection comes from, and what is said about wrong files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.config import EtcdConfig, TlsConfig
from serving.errors import FailedPrecondition, SpecError
from serving.sdk import ClusterConfig, Connection, load_mesh_config
from serving.sdk import connection as module
from serving.sdk.connection import ListenConfig

MESH = """\
etcd:
  endpoints: [etcd-1:2379, "[::1]:2379"]
  tls: {ca_file: ca.pem, cert_file: client.pem, key_file: /keys/client.key}
  user: mesh
  password_file: etcd.password
  request_timeout: 3s
artifacts: s3://bucket/mesh
clusters:
  - name: east
    ray_address: ray-east:6379
    token_file: east.token
    labels: {region: east}
  - {name: west, ray_address: "10.0.0.2:6379"}
keepers: 2
listen:
  host: 10.0.0.5
  tls: {ca_file: ca.pem, cert_file: keeper.pem, key_file: keeper.key}
tls: {ca_file: ca.pem}
name: prod
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mesh.yaml"
    path.write_text(text)
    return path


def test_everything_of_mesh_yaml(tmp_path: Path) -> None:
    config = load_mesh_config(write(tmp_path, MESH))
    assert config.etcd == EtcdConfig(
        endpoints=("etcd-1:2379", "[::1]:2379"),
        tls=TlsConfig(str(tmp_path / "ca.pem"), str(tmp_path / "client.pem"), "/keys/client.key"),
        user="mesh",
        password_file=str(tmp_path / "etcd.password"),
        request_timeout_s=3.0,
    )
    assert (config.name, config.artifacts) == ("prod", "s3://bucket/mesh")
    assert config.clusters == (
        ClusterConfig("east", "ray-east:6379", str(tmp_path / "east.token"), {"region": "east"}),
        ClusterConfig("west", "10.0.0.2:6379"),
    )
    tls = TlsConfig(str(tmp_path / "ca.pem"), str(tmp_path / "keeper.pem"), str(tmp_path / "keeper.key"))
    assert (config.keepers, config.listen) == (2, ListenConfig("10.0.0.5", tls=tls))
    connection = Connection.from_file(tmp_path / "mesh.yaml")
    assert (connection.etcd, connection.artifacts, connection.clusters) == (
        config.etcd,
        config.artifacts,
        config.clusters,
    )
    assert connection.tls == TlsConfig(str(tmp_path / "ca.pem"))


def test_the_documented_example_is_read(tmp_path: Path) -> None:
    assert module.__doc__
    example = module.__doc__.partition("::\n\n")[2].partition("\n\nPaths")[0]
    text = "\n".join(line[4:] for line in example.splitlines())
    assert load_mesh_config(write(tmp_path, text)).keepers == 2


def test_replicas_may_listen_everywhere(tmp_path: Path) -> None:
    path = write(tmp_path, MESH.replace("labels: {region: east}", "listen: {host: 0.0.0.0}", 1))
    assert load_mesh_config(path).clusters[0].listen == ListenConfig("0.0.0.0")


def test_defaults(tmp_path: Path) -> None:
    text = "etcd: {endpoints: ['e:1']}\nartifacts: ./artifacts\nclusters: [{name: a, ray_address: 'r:1'}]\n"
    config = load_mesh_config(write(tmp_path, text))
    assert config.artifacts == (tmp_path / "artifacts").as_uri()
    assert (config.keepers, config.listen, config.tls) == (1, ListenConfig("127.0.0.1"), None)
    assert config.name == "mesh"
    assert config.etcd == EtcdConfig(endpoints=("e:1",))


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "says"),
    [
        ("  endpoints", "  endpoint", 2, "etcd.endpoint", "did you mean `endpoints`?"),
        ("etcd-1:2379", "http://etcd-1:2379", 2, "etcd.endpoints[0]", "did you mean `etcd-1:2379`?"),
        ("etcd-1:2379", "etcd-1", 2, "etcd.endpoints[0]", "is not host:port"),
        ("etcd-1:2379", "etcd-1:99999", 2, "etcd.endpoints[0]", "is not host:port"),
        ('[etcd-1:2379, "[::1]:2379"]', "[]", 2, "etcd.endpoints", "names no endpoint"),
        ("  password_file: etcd.password", "  password: secret", 5, "etcd.password", "did you mean `password_file`?"),
        ("  user: mesh\n", "", 1, "etcd.user", "go together"),
        ("request_timeout: 3s", "request_timeout: 2m", 6, "etcd.request_timeout", "up to 60 seconds"),
        ("cert_file: client.pem, ", "", 3, "etcd.tls", "cert_file and key_file go together"),
        ("artifacts: s3://bucket/mesh", "artifacts: ''", 7, "artifacts", "is empty"),
        ("name: west", "name: east", 13, "clusters[1].name", "stands there twice"),
        ("name: west", "name: West", 13, "clusters[1].name", "not a valid name"),
        ("ray-east:6379", "ray://ray-east:10001", 10, "clusters[0].ray_address", "is a url"),
        ("name: prod", "name: Prod", 19, "name", "not a valid name"),
        ("keepers: 2", "keepers: 0", 14, "keepers", "1 to 16"),
        (", cert_file: keeper.pem, key_file: keeper.key", "", 17, "listen.tls", "needs cert_file and key_file"),
        ("host: 10.0.0.5", "host: 0.0.0.0", 16, "listen.host", "advertise_host must say what they can"),
        ("labels: {region: east}", "listen: {advertise_host: '::'}", 12, "clusters[0].listen.advertise_host", "`::`"),
        ("keepers: 2", "keeper: 2", 14, "keeper", "did you mean `keepers`?"),
    ],
)
def test_wrong_files(tmp_path: Path, old: str, new: str, line: int, field: str, says: str) -> None:
    assert old in MESH
    path = write(tmp_path, MESH.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        load_mesh_config(path)
    assert (caught.value.line, caught.value.field, caught.value.source) == (line, field, str(path))
    assert says in str(caught.value)


def local_mesh(folder: Path, **changes: object) -> Path:
    data = {
        "version": 1,
        "phase": "ready",
        "etcd": {"endpoints": ["127.0.0.1:2379"]},
        "artifacts": "file:///mesh/artifacts",
        "clusters": [{"name": "east", "ray_address": "127.0.0.1:6379", "token_file": "/t", "pid": 7}],
        "processes": [],
    } | changes
    path = folder / "mesh.json"
    path.write_text(json.dumps(data))
    return path


def test_local_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = local_mesh(tmp_path)
    expected = Connection(
        etcd=EtcdConfig(endpoints=("127.0.0.1:2379",)),
        artifacts="file:///mesh/artifacts",
        clusters=(ClusterConfig("east", "127.0.0.1:6379", "/t"),),
    )
    assert Connection.local(tmp_path) == Connection.local(str(tmp_path)) == Connection.from_file(path) == expected
    monkeypatch.delenv("MESH_CONFIG", raising=False)
    monkeypatch.setenv("MESH_DIR", str(tmp_path))
    assert Connection.local() == Connection.from_env() == expected


def test_local_mesh_whose_keepers_take_tls_only(tmp_path: Path) -> None:
    local_mesh(tmp_path, tls={"ca_file": "/keys/ca.pem", "cert_file": "", "key_file": ""})
    assert Connection.local(tmp_path).tls == TlsConfig("/keys/ca.pem")


def test_environment_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, MESH)
    monkeypatch.setenv("MESH_CONFIG", str(path))
    assert Connection.from_env() == Connection.from_file(path)


def test_no_mesh_there(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"no local mesh in .*: start one with `mesh up --dir"):
        Connection.local(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "of version 1"),
        ({"etcd": {}}, r"etcd\.endpoints: is missing"),
        ({"etcd": {"endpoints": "x"}}, "expects a list"),
        ({"artifacts": 5}, "artifacts: expects a text"),
        ({"clusters": [5]}, "expects a mapping"),
    ],
)
def test_a_damaged_mesh_json(tmp_path: Path, change: dict[str, object], says: str) -> None:
    local_mesh(tmp_path, **change)
    with pytest.raises(SpecError, match=says):
        Connection.local(tmp_path)
    (tmp_path / "mesh.json").write_text("{")
    with pytest.raises(SpecError, match="is not valid JSON"):
        Connection.local(tmp_path)
