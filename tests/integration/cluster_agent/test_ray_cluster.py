"""Local Ray clusters: several at once, token authentication, long paths, and ends that leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.errors import Cancelled, FailedPrecondition, InvalidArgument
from serving.local.ray_cluster import (
    MAX_TEMP_DIR_BYTES,
    RayCluster,
    RayClusterOptions,
    find_ray_cluster,
    start_ray_cluster,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

DRIVER = """
import json, sys
import ray
ray.init(address=sys.argv[1], namespace="mesh", log_to_driver=False, logging_level="error")

@ray.remote(num_cpus=0)
class Here:
    def where(self):
        import os
        import serving
        return [os.getpid(), os.nice(0), ray.get_runtime_context().get_node_id()]

actor = Here.options(name="here", lifetime="detached").remote()
print(json.dumps({"actor": ray.get(actor.where.remote()), "resources": ray.cluster_resources(), "nodes": ray.nodes()}))
"""


def drive(cluster: RayCluster, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DRIVER, cluster.address],
        env={**os.environ, **cluster.client_env, **env},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RayCluster, RayCluster]]:
    base = tmp_path_factory.mktemp("clusters")
    long = base / ("a-folder-with-a-name-that-is-longer-than-a-unix-socket-allows" * 2)
    assert len(str(long)) > MAX_TEMP_DIR_BYTES
    options = RayClusterOptions(num_cpus=3, resources={"npu": 2.0}, labels={"zone": "a"}, memory_bytes=1 << 30)
    east = start_ray_cluster("east", long, options=options)
    try:
        west = start_ray_cluster("west", base / "west")
        try:
            yield east, west
        finally:
            west.stop()
    finally:
        east.stop()


def test_two_clusters_run_side_by_side_each_with_its_own_actors(two: tuple[RayCluster, RayCluster]) -> None:
    answers = []
    for cluster in two:
        done = drive(cluster)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout.splitlines()[-1]))
        pid, niceness, _ = answers[-1]["actor"]
        assert pid in cluster.pids()
        assert niceness == os.nice(0)
    assert answers[0]["actor"][2] != answers[1]["actor"][2]
    assert answers[0]["resources"]["CPU"] == 3
    assert answers[0]["resources"]["npu"] == 2
    assert answers[0]["resources"]["memory"] == 1 << 30
    assert answers[0]["nodes"][0]["Labels"]["zone"] == "a"
    assert answers[1]["resources"]["CPU"] == 4


def opened(pid: int) -> set[str]:
    """What a process has open; of one that ends meanwhile, and of files that it closes, less."""
    found = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(link))
    except OSError:
        return found
    return found


def test_everything_listens_on_loopback_only(two: tuple[RayCluster, RayCluster]) -> None:
    inodes = set()
    for cluster in two:
        for pid in cluster.pids():
            inodes |= opened(pid)
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                listening.append(fields[1].split(":")[0])
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert len(listening) > 4
    assert set(listening) <= loopback


def test_a_stranger_without_the_token_is_refused(two: tuple[RayCluster, RayCluster], tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    done = drive(two[0], RAY_AUTH_TOKEN_PATH=str(wrong))
    assert done.returncode != 0
    assert "uthentic" in done.stderr + done.stdout
    assert two[0].token_file.stat().st_mode & 0o777 == 0o600
    assert two[0].token_file.read_text() != two[1].token_file.read_text()


def test_a_second_cluster_in_the_same_folder_is_refused(two: tuple[RayCluster, RayCluster]) -> None:
    with pytest.raises(FailedPrecondition, match="runs in"):
        start_ray_cluster("west", two[1].directory)
    assert two[1].running()


def test_a_killed_leader_takes_everything_with_it_and_the_folder_can_be_used_again(tmp_path: Path) -> None:
    cluster = start_ray_cluster("north", tmp_path / "north", options=RayClusterOptions(num_cpus=1))
    try:
        done = drive(cluster)
        actor = json.loads(done.stdout.splitlines()[-1])["actor"][0]
        os.kill(cluster.identity.pid, signal.SIGKILL)
        wait_for(lambda: not cluster.running() and actor not in cluster.pids())
        again = start_ray_cluster("north", tmp_path / "north", options=RayClusterOptions(num_cpus=1))
    finally:
        cluster.stop()
    found = find_ray_cluster(tmp_path / "north")
    assert found is None or found.identity == again.identity
    try:
        assert drive(again).returncode == 0
        pids = again.pids()
        assert len(pids) > 4
        again.kill()
        assert again.pids() == []
        assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids if pid != again.identity.pid)
    finally:
        again.stop()
    assert find_ray_cluster(tmp_path / "north") is None


def test_a_head_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="object"):
        start_ray_cluster("small", tmp_path / "small", options=RayClusterOptions(object_store_bytes=1))
    assert find_ray_cluster(tmp_path / "small") is None


def test_a_start_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    stop = threading.Event()
    timer = threading.Timer(1.0, stop.set)
    timer.start()
    try:
        with pytest.raises(Cancelled, match="was ended while it started"):
            start_ray_cluster("ended", tmp_path / "ended", options=RayClusterOptions(num_cpus=1), stop=stop)
    finally:
        timer.cancel()
    assert find_ray_cluster(tmp_path / "ended") is None


def test_a_bad_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no name for a cluster"):
        start_ray_cluster("Not A Name", tmp_path)
