"""`mesh up -f mesh.yaml`: a mesh beside an etcd and a Ray cluster that were there before, and are there afterwards."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml

from examples.digits.data import load_split
from serving import Connection, MeshClient
from serving._proto import records_pb2 as pb
from serving.config import TlsConfig
from serving.discovery.client_tls import channel_credentials
from serving.errors import DeadlineExceeded, FailedPrecondition, MeshError, NotFound, Unauthenticated
from serving.local.etcd import EtcdCluster, EtcdOptions, client_context, start_etcd
from serving.local.mesh import UpOptions, down, load_state, up
from serving.local.ray_cluster import RayCluster, RayClusterOptions, start_ray_cluster
from serving.store import EtcdClient, keys
from serving.store.records import decode
from tests.support.certificates import Authority
from tests.support.mesh import deploy_digits, expected_classes
from tests.support.stored import stored_keys

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
USER, PASSWORD = "mesh", "right password"
HEALTH = "/grpc.health.v1.Health/Check"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("existing")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority.make(folder / "authority")


@pytest.fixture(scope="module")
def etcd(folder: Path, authority: Authority) -> Iterator[EtcdCluster]:
    """Asks for a certificate and for a user."""
    options = EtcdOptions(tls=authority.issue("server"), die_with_parent=True)
    cluster = start_etcd(folder / "etcd", options=options)
    try:
        cluster.enable_auth("root password", {USER: PASSWORD})
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture(scope="module")
def ray(folder: Path) -> Iterator[RayCluster]:
    """Asks for a token."""
    options = RayClusterOptions(num_cpus=4, die_with_parent=True)
    cluster = start_ray_cluster("existing", folder / "ray", options=options)
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def mesh_yaml(folder: Path, authority: Authority, etcd: EtcdCluster, ray: RayCluster) -> Path:
    """Paths in it are relative to it, as an administrator would write them."""
    (folder / "etcd.password").write_text(PASSWORD + "\n")
    tls = {name: issued(authority, name) for name in ("client", "keeper", "replica")}
    store = {"endpoints": list(etcd.endpoints), "tls": tls["client"], "user": USER, "password_file": "etcd.password"}
    description = {
        "etcd": store,
        "artifacts": "artifacts",
        "clusters": [
            {
                "name": "existing",
                "ray_address": ray.address,
                "token_file": str(ray.token_file.relative_to(folder)),
                "labels": {"region": "here"},
                "listen": {"tls": tls["replica"]},
            }
        ],
        "keepers": 1,
        "listen": {"tls": tls["keeper"]},
        "tls": tls["client"],
    }
    return write(folder / "mesh.yaml", description)


def issued(authority: Authority, name: str) -> dict[str, str]:
    """A certificate's files, relative to the folder that holds the authority's."""
    authority.issue(name)
    folder = authority.folder.name
    return {
        "ca_file": f"{folder}/ca.pem",
        "cert_file": f"{folder}/{name}.pem",
        "key_file": f"{folder}/{name}.key",
    }


@pytest.fixture
def running(folder: Path, mesh_yaml: Path) -> Iterator[Path]:
    """The folder of a mesh that runs; the test may end it itself."""
    mesh_dir = folder / "mesh"
    up(UpOptions(mesh_dir, config_file=mesh_yaml), print)
    yield mesh_dir
    try:
        down(mesh_dir, print)
    except NotFound:
        return  # the test did


def write(path: Path, description: dict[str, object]) -> Path:
    path.write_text(yaml.safe_dump(description))
    return path


def changed(mesh_yaml: Path, name: str, **etcd: object) -> Path:
    """A copy beside it whose etcd section differs."""
    description = yaml.safe_load(mesh_yaml.read_text())
    description["etcd"].update(etcd)
    return write(mesh_yaml.parent / name, description)


def assert_answers(etcd: EtcdCluster, config: Connection) -> None:
    async def look() -> None:
        store = EtcdClient(config.etcd)
        await store.get("/mesh/any")
        await store.close()

    assert etcd.members[0].healthy()
    asyncio.run(look())


def assert_tls(address: str, connection: Connection, name: str) -> None:
    """A server that shows the certificate of that name and speaks only to clients with one of the same authority."""
    assert connection.tls is not None
    host, port = address.rsplit(":", 1)
    context = client_context(connection.tls)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        shown = secure.getpeercert()
    assert shown is not None
    assert ((("commonName", name),),) == shown["subject"]
    with grpc.secure_channel(address, channel_credentials(connection.tls)) as known:
        known.unary_unary(HEALTH)(b"", timeout=60)
    without_certificate = channel_credentials(TlsConfig(ca_file=connection.tls.ca_file))
    for stranger in (grpc.secure_channel(address, without_certificate), grpc.insecure_channel(address)):
        with stranger, pytest.raises(grpc.RpcError) as raised:
            stranger.unary_unary(HEALTH)(b"", timeout=60)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_up_deploy_infer_down(running: Path, mesh_yaml: Path, etcd: EtcdCluster, ray: RayCluster) -> None:
    started = {record.role for record in load_state(running).processes}
    assert started == {"supervisor", "keeper", "agent"}  # and neither an etcd nor a Ray cluster
    connection = Connection.from_file(mesh_yaml)
    with MeshClient(connection) as client:
        deploy_digits(client)
        images = load_split().held_out_images[:64]  # the model's largest batch
        answer = client.infer("digits", "digits", {"image": images})["probabilities"]
        assert answer.argmax(axis=1).tolist() == expected_classes()[:64]
        for endpoint in client.endpoints("digits"):
            assert endpoint.tls
            assert_tls(endpoint.address, connection, "replica")
        for value in stored_keys(connection.etcd, keys.KEEPER_ELECTION).values():
            assert_tls(decode(pb.KeeperRecord, value).address, connection, "keeper")
        client.delete("digits", wait=True, timeout_s=120)
    identity, pids = etcd.members[0].process, ray.pids()
    assert identity is not None

    down(running, print)
    with pytest.raises(NotFound):
        load_state(running)
    assert ray.running()
    assert ray.identity.pid in pids
    assert identity.running()
    assert_answers(etcd, connection)


def test_a_wrong_password_is_named(folder: Path, mesh_yaml: Path) -> None:
    (folder / "wrong.password").write_text("wrong\n")
    wrong = changed(mesh_yaml, "wrong.yaml", password_file="wrong.password")
    mesh_dir = folder / "wrong-mesh"
    with pytest.raises(Unauthenticated, match="check the user and the password file"):
        up(UpOptions(mesh_dir, config_file=wrong), print)
    assert_nothing_runs(mesh_dir)
    with (
        pytest.raises(Unauthenticated, match="check the user and the password file"),
        MeshClient(Connection.from_file(wrong)) as client,
    ):
        client.list()


def test_a_missing_password_file_is_named(folder: Path, mesh_yaml: Path) -> None:
    missing = changed(mesh_yaml, "missing.yaml", password_file="no.password")
    mesh_dir = folder / "missing-mesh"
    with pytest.raises(FailedPrecondition, match=r"no\.password"):
        up(UpOptions(mesh_dir, config_file=missing), print)
    assert_nothing_runs(mesh_dir)


def test_plaintext_to_a_store_with_tls_is_refused(folder: Path, mesh_yaml: Path) -> None:
    plain = changed(mesh_yaml, "plain.yaml", tls=None)
    mesh_dir = folder / "plain-mesh"
    with pytest.raises(DeadlineExceeded, match=r"still missing: etcd .*127\.0\.0\.1"):
        up(UpOptions(mesh_dir, config_file=plain, start_timeout_s=5), print)
    assert_nothing_runs(mesh_dir)


def assert_nothing_runs(mesh_dir: Path) -> None:
    try:
        left = [record.name for record in load_state(mesh_dir).processes if record.identity.members()]
    except NotFound:
        return
    except MeshError as error:
        pytest.fail(f"the folder of a mesh that did not start is unusable: {error}")
    assert left == []
