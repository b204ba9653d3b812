"""`mesh up -f mesh.yaml`: a mesh beside an etcd and a Ray cluster that were there before, and are there afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from examples.digits.data import load_split
from serving import Connection, MeshClient
from serving.errors import DeadlineExceeded, FailedPrecondition, MeshError, NotFound, Unauthenticated
from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd
from serving.local.mesh import UpOptions, down, load_state, up
from serving.local.ray_cluster import RayCluster, RayClusterOptions, start_ray_cluster
from serving.store import EtcdClient
from tests.support.certificates import Authority
from tests.support.mesh import deploy_digits, expected_classes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
USER, PASSWORD = "mesh", "right password"


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
    authority.issue("client")
    tls = {"ca_file": "authority/ca.pem", "cert_file": "authority/client.pem", "key_file": "authority/client.key"}
    description = {
        "etcd": {"endpoints": list(etcd.endpoints), "tls": tls, "user": USER, "password_file": "etcd.password"},
        "artifacts": "artifacts",
        "clusters": [
            {
                "name": "existing",
                "ray_address": ray.address,
                "token_file": str(ray.token_file.relative_to(folder)),
                "labels": {"region": "here"},
            }
        ],
        "keepers": 1,
    }
    return write(folder / "mesh.yaml", description)


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


def test_up_deploy_infer_down(running: Path, mesh_yaml: Path, etcd: EtcdCluster, ray: RayCluster) -> None:
    started = {record.role for record in load_state(running).processes}
    assert started == {"supervisor", "keeper", "agent"}  # and neither an etcd nor a Ray cluster
    connection = Connection.from_file(mesh_yaml)
    with MeshClient(connection) as client:
        deploy_digits(client)
        images = load_split().held_out_images[:64]  # the model's largest batch
        answer = client.infer("digits", "digits", {"image": images})["probabilities"]
        assert answer.argmax(axis=1).tolist() == expected_classes()[:64]
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
