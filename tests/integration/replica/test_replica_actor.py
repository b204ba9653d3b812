"""The replica inside Ray's C++ worker: created by a Python actor, serving, drained, killed, restarted."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from google.protobuf import json_format

from serving._proto import records_pb2
from serving.config import EtcdConfig
from serving.local.ray_cluster import RayCluster, RayClusterOptions, start_ray_cluster
from tests.integration.replica.replica_harness import (
    ROOT,
    Store,
    build_directory,
    endpoint_key,
    infer,
    parse_report,
    prepare_command,
    replica_config,
    write_model,
)
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
WAIT_S = 120.0


def actor_library() -> Path:
    """The built actor: beside the tests' own build, or where `make setup` puts it."""
    found = [build_directory() / "out" / "_lib" / "libmesh_actor.so", ROOT / "serving" / "_lib" / "libmesh_actor.so"]
    for path in found:
        if path.exists():
            return path
    pytest.fail(f"libmesh_actor.so is at none of {[str(path) for path in found]}; run `make setup`")


class Driver:
    """One process that is a Ray driver and does what it is told."""

    def __init__(self, cluster: RayCluster, log: Path, **env: str) -> None:
        self._log = log
        # Workers import the Python actor by name, because a code search path turns pickling off.
        paths = {"PYTHONPATH": str(ROOT), **cluster.client_env, **env}
        with log.open("ab") as errors:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.replica.actor_driver", cluster.address, str(actor_library())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, **paths},
            )

    def ask(self, *words: Any) -> Any:
        """The answer to one command."""
        if self._popen.stdin is None or self._popen.stdout is None:
            raise RuntimeError("the driver has no pipes")
        self._popen.stdin.write(json.dumps(words) + "\n")
        self._popen.stdin.flush()
        for line in self._popen.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"the driver ended: {self._log.read_text()[-3000:]}")

    def report(self, name: str) -> records_pb2.ReplicaReport:
        return parse_report(self.ask("direct", name, "Status"))

    def wait_state(self, name: str, state: str) -> records_pb2.ReplicaReport:
        """The first report in that state."""

        def look() -> records_pb2.ReplicaReport | None:
            report = self.report(name)
            if report.state == "failed" and state != "failed":
                raise RuntimeError(f"failed: {report.reason}")
            return report if report.state == state else None

        report = eventually(look, timeout_s=WAIT_S, what=f"{name} {state}")
        if report is None:
            raise AssertionError("unreachable")
        return report

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        self._popen.wait(60)
        if self._popen.stdout is not None:
            self._popen.stdout.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    options = RayClusterOptions(num_cpus=2, die_with_parent=True, env={"PYTHONPATH": str(ROOT)})
    running = start_ray_cluster("replicas", tmp_path_factory.mktemp("ray"), options=options)
    yield running
    running.stop()


@pytest.fixture
def driver(cluster: RayCluster, tmp_path: Path) -> Iterator[Driver]:
    with Driver(cluster, tmp_path / "driver.log") as running:
        yield running


def _wait_endpoint(store: Store, replica_id: str, *, pid: int) -> records_pb2.Endpoint:
    """The endpoint in etcd, once it is that of the process `pid`."""

    def look() -> records_pb2.Endpoint | None:
        endpoint = store.endpoint(endpoint_key(replica_id))
        return endpoint if endpoint is not None and endpoint.pid == pid else None

    found = eventually(look, timeout_s=WAIT_S, what=f"the endpoint of {replica_id} with pid {pid}")
    if found is None:
        raise AssertionError("unreachable")
    return found


def test_serves_drains_and_comes_back_after_a_kill(
    cluster: RayCluster, driver: Driver, tmp_path: Path, command: list[str], etcd: EtcdConfig, store: Store
) -> None:
    config = json_format.MessageToJson(replica_config(command, etcd, replica_id="life"), indent=None)
    # The driver that started everything goes away, as the cluster agent may.
    with Driver(cluster, tmp_path / "first.log") as first:
        created = parse_report(first.ask("spawn", "life", config))
    assert created.state in {"preparing", "loading", "ready"}
    ready = driver.wait_state("life", "ready")
    endpoint = _wait_endpoint(store, "life", pid=ready.pid)
    assert infer(endpoint.address).tolist() == [1, 2, 3]

    os.kill(ready.pid, signal.SIGKILL)
    eventually(lambda: driver.report("life").pid != ready.pid, timeout_s=WAIT_S, what="another process")
    again = driver.wait_state("life", "ready")
    endpoint = _wait_endpoint(store, "life", pid=again.pid)
    assert infer(endpoint.address).tolist() == [1, 2, 3]

    assert driver.ask("kill_spawner") > 0
    assert parse_report(driver.ask("status", "life")).pid == again.pid
    assert parse_report(driver.ask("spawn", "second", config.replace('"life"', '"second"'))).id == "second"
    driver.wait_state("second", "ready")

    assert parse_report(driver.ask("direct", "life", "Drain", 30.0)).state in {"ready", "draining", "drained"}
    drained = driver.wait_state("life", "drained")
    assert (drained.lease, drained.registered) == (0, False)
    assert store.get(endpoint_key("life")) is None
    assert parse_report(driver.ask("direct", "second", "Stop")).state == "drained"
    assert store.get(endpoint_key("second")) is None


def test_sigterm_drains_before_the_process_ends(
    driver: Driver, repository: Path, command: list[str], etcd: EtcdConfig, store: Store
) -> None:
    write_model(repository, "slow", delay_ms=5000)
    config = replica_config(command, etcd, replica_id="asked-to-go")
    driver.ask("spawn", "asked-to-go", json_format.MessageToJson(config, indent=None))
    ready = driver.wait_state("asked-to-go", "ready")
    _wait_endpoint(store, "asked-to-go", pid=ready.pid)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(infer, ready.address, "slow")
        eventually(lambda: driver.report("asked-to-go").in_flight == 1, timeout_s=WAIT_S, what="a running request")
        os.kill(ready.pid, signal.SIGTERM)
        assert running.result(WAIT_S).tolist() == [1, 2, 3]
    eventually(lambda: driver.report("asked-to-go").pid != ready.pid, timeout_s=WAIT_S, what="Ray's restart")
    again = driver.wait_state("asked-to-go", "ready")
    _wait_endpoint(store, "asked-to-go", pid=again.pid)
    assert parse_report(driver.ask("direct", "asked-to-go", "Stop")).state == "drained"


def test_a_failed_load_keeps_the_actor_up_with_the_reason(driver: Driver, repository: Path, command: list[str]) -> None:
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "config.pbtxt").write_text('name: "broken"\nbackend: "nosuchbackend"\n')
    config = json_format.MessageToJson(replica_config(command, replica_id="bad"), indent=None)
    driver.ask("spawn", "bad", config)
    failed = driver.wait_state("bad", "failed")
    assert failed.reason.startswith("model broken: ")
    assert driver.report("bad").pid == failed.pid
    assert parse_report(driver.ask("direct", "bad", "Stop")).state == "drained"


@pytest.mark.parametrize("config", ["rubbish", "{}", "[]", ""])
def test_a_configuration_that_is_wrong_is_a_reason_and_no_crash(driver: Driver, config: str) -> None:
    name = f"wrong-{len(config)}-{config[:1]}"
    driver.ask("spawn", name, config)
    failed = driver.wait_state(name, "failed")
    assert failed.reason
    assert parse_report(driver.ask("direct", name, "Drain", float(-5))).state in {"failed", "draining", "drained"}
    assert driver.wait_state(name, "drained").pid == failed.pid


def _update(directory: Path, revision: int, *models: str, before: str = "true") -> str:
    """An order for a repository of its own; `before` is a shell command that its preparation begins with."""
    repository = directory / f"repository-{revision}"
    for model in models:
        write_model(repository, model)
    prepared = directory / f"revision-{revision}"
    prepared.mkdir()
    _, answer = prepare_command(prepared, repository)
    order = records_pb2.ReplicaUpdate(
        id="updated", generation=1, revision=revision, prepare_command=["sh", "-c", f"{before} && cat {answer}", "-"]
    )
    return json_format.MessageToJson(order, indent=None)


def test_updates_are_taken_refused_and_fail_as_the_report_says(
    driver: Driver, tmp_path: Path, command: list[str], etcd: EtcdConfig, store: Store
) -> None:
    def order(text: str) -> records_pb2.ReplicaReport:
        return parse_report(driver.ask("direct", "updated", "Update", text))

    def wait_revision(revision: int) -> records_pb2.ReplicaReport:
        def look() -> records_pb2.ReplicaReport | None:
            report = driver.report("updated")
            return report if report.revision == revision and not report.updating_to else None

        found = eventually(look, timeout_s=WAIT_S, what=f"revision {revision}")
        assert found is not None
        return found

    config = replica_config(command, etcd, replica_id="updated")
    driver.ask("spawn", "updated", json_format.MessageToJson(config, indent=None))
    ready = driver.wait_state("updated", "ready")
    _wait_endpoint(store, "updated", pid=ready.pid)
    assert "is for replica other" in order(_update(tmp_path, 90, "echo").replace('"updated"', '"other"')).refused
    assert order("no order").refused

    assert order(_update(tmp_path, 2, "echo", "added")).refused == ""
    assert wait_revision(2).pid == ready.pid
    assert infer(ready.address, "added").tolist() == [1, 2, 3]

    def published() -> bool:
        endpoint = store.endpoint(endpoint_key("updated"))
        return (
            endpoint is not None and endpoint.revision == 2 and {"echo", "added"} == {m.name for m in endpoint.models}
        )

    eventually(published, timeout_s=WAIT_S, what="revision 2 in discovery")

    order(_update(tmp_path, 3, "echo", before="echo no room >&2 && exit 3"))
    eventually(lambda: driver.report("updated").failed_updates == 1, timeout_s=WAIT_S, what="a failure")
    failed = driver.report("updated")
    assert (failed.revision, failed.failed_revision, failed.updating_to) == (2, 3, 0)
    assert "no room" in failed.failed_reason
    assert infer(ready.address, "added").tolist() == [1, 2, 3]

    order(_update(tmp_path, 4, "echo", before="sleep 1"))
    order(_update(tmp_path, 5, "echo"))
    last = wait_revision(5)
    assert (last.failed_revision, last.failed_updates) == (0, 1)
    assert infer(ready.address).tolist() == [1, 2, 3]

    order(_update(tmp_path, 6, "echo", before="sleep 2"))
    driver.ask("direct", "updated", "Drain", 30.0)
    assert "takes no update" in order(_update(tmp_path, 7, "echo")).refused
    driver.wait_state("updated", "drained")
    assert store.get(endpoint_key("updated")) is None
