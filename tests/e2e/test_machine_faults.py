"""What is wrong with the machine is said in one sentence that says what to do, with an exit code for scripts."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
import yaml

from serving.errors import FailedPrecondition
from serving.local.etcd import start_etcd
from serving.local.ports import free_ports
from serving.local.ray_cluster import find_ray_cluster
from serving.local.state import load_state
from serving.local.supervisor import hold_lock
from serving.process_id import ProcessId
from tests.support.mesh import ROOT, RunningMesh

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
MESH = [sys.executable, "-m", "serving.cli"]


def mesh_command(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(env or {})}
    return subprocess.run([*MESH, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200)


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr + done.stdout


def test_two_meshes_in_one_folder(mesh: RunningMesh) -> None:
    second = mesh_command("up", "--detach", "--dir", str(mesh.mesh_dir))
    assert second.returncode == 1
    assert "already runs in" in said(second)
    assert "mesh down" in said(second)
    assert mesh.process("supervisor").identity.alive()


def test_etcd_not_installed(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    hidden = {"MESH_ETCD_BINARY": str(empty / "etcd")}
    done = mesh_command("up", "--detach", "--dir", str(tmp_path / "mesh"), env=hidden)
    assert done.returncode == 1
    assert "apt-get install etcd-server" in said(done)
    assert not (tmp_path / "mesh" / "mesh.json").exists()


def test_an_interrupted_detached_start_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    command = [*MESH, "up", "--detach", "--dir", str(folder)]
    starting = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert starting.stderr is not None
    heard = []
    while not heard or "starting Ray" not in heard[-1]:
        heard.append(starting.stderr.readline())
        assert heard[-1], heard
    starting.send_signal(signal.SIGINT)
    heard += starting.stderr.readlines()
    assert starting.wait(100) == 130, heard
    assert any("ending what was started" in line for line in heard), heard
    with hold_lock(folder):  # its supervisor is gone
        assert not [entry for entry in folder.glob("ray/*") if find_ray_cluster(entry) is not None]
    if (folder / "mesh.json").exists():
        assert not any(record.identity.members() for record in load_state(folder).processes)


def test_etcd_port_taken(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(FailedPrecondition, match="address already in use"):
            start_etcd(tmp_path, client_port=port, peer_port=free_ports(1)[0])


def test_listen_address_of_another_host(mesh: RunningMesh, tmp_path: Path) -> None:
    """`mesh up -f` on an address that the keeper cannot listen on: which, why, and what to do; and nothing is left."""
    etcd = start_etcd(tmp_path / "etcd")
    try:
        ray = mesh.ray("east")
        description = {
            "name": "elsewhere",
            "etcd": {"endpoints": list(etcd.endpoints)},
            "artifacts": "artifacts",
            "clusters": [{"name": "east", "ray_address": ray.address, "token_file": str(ray.token_file)}],
            "listen": {"host": "192.0.2.1"},  # kept for documentation: no machine has it
        }
        (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(description))
        folder = tmp_path / "mesh"
        done = mesh_command("up", "--detach", "-f", str(tmp_path / "mesh.yaml"), "--dir", str(folder))
        assert done.returncode == 1
        assert "cannot listen on 192.0.2.1:0: Cannot assign requested address" in said(done)
        assert "name an address of this machine in listen.host" in said(done)
        assert not any(record.identity.members() for record in load_state(folder).processes)
    finally:
        etcd.stop()


def test_two_starts_at_once(tmp_path: Path) -> None:
    """Two `mesh up` in one folder at the same moment: one wins, the other says so; the winner is unharmed."""
    folder = tmp_path / "mesh"
    command = [*MESH, "up", "--detach", "--clusters", "1", "--dir", str(folder)]
    starts = [subprocess.Popen(command, cwd=ROOT, stdout=PIPE, stderr=STDOUT, text=True) for _ in range(2)]
    try:
        told = [start.communicate(timeout=200)[0] for start in starts]
        assert sorted(start.returncode for start in starts) == [0, 1], told
        loser = told[[start.returncode for start in starts].index(1)]
        assert "Traceback" not in loser
        assert f"a mesh is running or starting in {folder}: end it with `mesh down --dir {folder}`" in loser
        assert "or choose another folder with --dir" in loser
        state = load_state(folder)
        assert state.phase == "ready"
        assert all(record.identity.alive() for record in state.processes)
        assert len([record for record in state.processes if record.role == "supervisor"]) == 1
    finally:
        assert mesh_command("down", "--dir", str(folder)).returncode == 0


def test_half_built_extension(mesh: RunningMesh, tmp_path: Path) -> None:
    """An agent whose actor library is damaged or missing says so and does not start masters."""
    import json

    from serving.local.state import load_state

    library = ROOT / "serving" / "_lib" / "libmesh_actor.so"
    broken = tmp_path / "libmesh_actor.so"
    broken.write_bytes(library.read_bytes()[:4096])
    cluster = load_state(mesh.mesh_dir).clusters[0]
    config = json.loads((mesh.mesh_dir / "config" / f"agent-{cluster.name}.json").read_text())
    for path, word in ((broken, "damaged"), (tmp_path / "nowhere.so", "not there")):
        file = tmp_path / f"{path.stem}.json"
        file.write_text(json.dumps({**config, "cluster": "broken", "library": str(path)}))
        done = subprocess.run(
            [sys.executable, "-m", "serving.cluster_agent", "--config", str(file)],
            env={**os.environ, **mesh.ray(cluster.name).client_env},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode != 0
        assert str(path) in said(done)
        assert word in said(done)
        assert "make setup" in said(done)


def test_supervisor_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    """After `kill -9` of the supervisor, `mesh down` ends what it left."""
    from serving.local.mesh import UpOptions, down, load_state, up

    folder = tmp_path / "mesh"
    up(UpOptions(folder, clusters=1, cpus_per_cluster=2), print)
    processes: list[ProcessId] = [record.identity for record in load_state(folder).processes]
    supervisor = load_state(folder).supervisor
    assert supervisor is not None
    os.kill(supervisor.identity.pid, 9)
    down(folder, print)
    assert not [identity for identity in processes if identity.alive()]
    shutil.rmtree(folder)
