"""`mesh doctor --config mesh.yaml`: what the file names is looked at, on a real etcd with authentication."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.cli.mesh_file_checks import mesh_file
from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd
from serving.local.ports import free_ports


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    cluster = start_etcd(tmp_path_factory.mktemp("etcd"), options=EtcdOptions(die_with_parent=True))
    try:
        cluster.enable_auth("root-word", {"mesh": "mesh-word"})
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def ray_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def written(folder: Path, etcd: str, ray_port: int, *, more: str = "", word: str = "mesh-word") -> Path:
    (folder / "word").write_text(word)
    (folder / "token").write_text("a token\n")
    path = folder / "mesh.yaml"
    path.write_text(
        f"etcd: {{endpoints: ['{etcd}'], user: mesh, password_file: word, request_timeout: 0.5}}\n"
        f"artifacts: ./artifacts\n"
        f"clusters: [{{name: east, ray_address: '127.0.0.1:{ray_port}', token_file: token}}]\n{more}"
    )
    return path


def states(path: Path) -> dict[str, str]:
    found = list(mesh_file(path))
    assert all(item.advice for item in found if item.state != "ok")
    return {item.name: item.state for item in found}


def test_all_is_well(etcd: EtcdCluster, ray_port: int, tmp_path: Path) -> None:
    endpoint = etcd.endpoints[0]
    found = states(written(tmp_path, endpoint, ray_port))
    assert found == dict.fromkeys(
        ("mesh.yaml", f"etcd {endpoint}", "Ray cluster east", "token of east", "listen"), "ok"
    )


def test_each_thing_that_is_wrong_is_named(etcd: EtcdCluster, ray_port: int, tmp_path: Path) -> None:
    endpoint = etcd.endpoints[0]
    assert states(written(tmp_path, endpoint, ray_port, word="other"))[f"etcd {endpoint}"] == "failed"
    (dead,) = free_ports(1)
    found = states(written(tmp_path, f"127.0.0.1:{dead}", dead, more="listen: {host: 203.0.113.1}\n"))
    assert [found[name] for name in (f"etcd 127.0.0.1:{dead}", "Ray cluster east", "listen")] == ["failed"] * 3
    path = written(tmp_path, endpoint, ray_port, more="tls: {ca_file: nowhere.pem}\n")
    (tmp_path / "token").write_text("")
    found = states(path)
    assert (found["token of east"], found["tls"]) == ("failed", "failed")
    path.write_text("nmae: x")
    assert states(path) == {"mesh.yaml": "failed"}
