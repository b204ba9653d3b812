"""The replica as a program: ready, registered, answering; drained without losing a request; failures with reasons."""

from __future__ import annotations

import concurrent.futures
import json
import os
import socket
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from tritonclient.utils import InferenceServerException

from serving._proto.records_pb2 import Endpoint
from serving.config import EtcdConfig
from serving.local.etcd import EtcdCluster
from tests.integration.replica.replica_harness import (
    ReplicaProcess,
    Store,
    endpoint_key,
    infer,
    replica_config,
    write_model,
)
from tests.support.log_records import log_records
from tests.support.waiting import eventually

REGISTER_TIMEOUT_S = 90.0


def _wait_registered(store: Store, key: str = endpoint_key()) -> None:
    eventually(lambda: store.get(key), timeout_s=REGISTER_TIMEOUT_S, what=f"{key} in etcd")


def test_becomes_ready_registers_answers_and_drains(
    tmp_path: Path, command: list[str], etcd: EtcdConfig, store: Store
) -> None:
    config = replica_config(command, etcd, labels={"tier": "gold"})
    with ReplicaProcess(tmp_path / "replica", config) as replica:
        ready = replica.wait_state("ready")
        _wait_registered(store)
        endpoint = store.endpoint(endpoint_key())
        assert endpoint is not None
        assert np.array_equal(infer(ready.address), np.array([1, 2, 3], dtype=np.float32))
        replica.terminate()
        assert replica.wait() == 0, replica.log_text()
        states = replica.states()
    assert states == ["loading", "ready", "draining", "drained"]
    assert store.get(endpoint_key()) is None
    assert (endpoint.address, endpoint.metrics_address) == (ready.address, ready.metrics_address)
    assert (endpoint.protocol, endpoint.role, endpoint.state) == ("kserve-grpc", "direct", "ready")
    assert (endpoint.generation, endpoint.revision, endpoint.pid) == (1, 1, ready.pid)
    assert dict(endpoint.labels) == {"tier": "gold"}
    assert [(model.name, list(model.versions)) for model in endpoint.models] == [("echo", ["1"])]


def test_the_record_in_etcd_is_canonical_json(
    tmp_path: Path, command: list[str], etcd: EtcdConfig, store: Store
) -> None:
    with ReplicaProcess(tmp_path / "replica", replica_config(command, etcd)) as replica:
        replica.wait_state("ready")
        _wait_registered(store)
        found = store.get(endpoint_key())
    assert found is not None
    stored = json.loads(found.value)
    endpoint = json_format.Parse(found.value, Endpoint())
    written = json.loads(json_format.MessageToJson(endpoint, indent=None))
    assert {key: stored[key] for key in written} == written
    assert set(stored) - set(written) <= {"labels", "tls", "node"}  # defaults may be written out


def test_metrics_show_tritons_and_our_own(tmp_path: Path, command: list[str], etcd: EtcdConfig, store: Store) -> None:
    with ReplicaProcess(tmp_path / "replica", replica_config(command, etcd)) as replica:
        ready = replica.wait_state("ready")
        _wait_registered(store)
        infer(ready.address)

        def page() -> str:
            with urllib.request.urlopen(f"http://{ready.metrics_address}/metrics", timeout=30) as answer:
                return str(answer.read().decode())

        eventually(lambda: "mesh_replica_registered 1" in page(), timeout_s=90, what="the registered gauge")
        text = page()
    assert 'nv_inference_request_success{model="echo"' in text
    assert "process_resident_memory_bytes" in text


def test_a_drain_finishes_what_runs_and_loses_nothing(
    tmp_path: Path, repository: Path, command: list[str], etcd: EtcdConfig, store: Store
) -> None:
    write_model(repository, "slow", delay_ms=5000)
    with ReplicaProcess(tmp_path / "replica", replica_config(command, etcd)) as replica:
        ready = replica.wait_state("ready")
        _wait_registered(store)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            running = [pool.submit(infer, ready.address, "slow", values=[float(n)]) for n in range(4)]
            eventually(lambda: _in_flight(ready.metrics_address) == 4, timeout_s=90, what="four running requests")
            replica.terminate()
            answers = [future.result(60) for future in running]
        assert replica.wait() == 0
        assert "requests cut off" not in replica.log_text()
    assert [answer.tolist() for answer in answers] == [[0.0], [1.0], [2.0], [3.0]]
    assert store.get(endpoint_key()) is None


def _in_flight(metrics_address: str) -> int:
    with urllib.request.urlopen(f"http://{metrics_address}/metrics", timeout=30) as answer:
        lines = str(answer.read().decode()).splitlines()
    values = [line.split()[-1] for line in lines if "in_flight" in line and not line.startswith("#")]
    return int(float(values[0])) if values else -1


def test_a_second_signal_ends_the_drain_at_once(tmp_path: Path, repository: Path, command: list[str]) -> None:
    write_model(repository, "slow", delay_ms=5000)
    config = replica_config(command, drain_timeout_s=600)
    with ReplicaProcess(tmp_path / "replica", config) as replica:
        ready = replica.wait_state("ready")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(infer, ready.address, "slow")
            eventually(lambda: _in_flight(ready.metrics_address) == 1, timeout_s=90, what="a running request")
            replica.terminate()
            replica.wait_state("draining")
            replica.terminate()
            with pytest.raises(InferenceServerException):
                running.result(60)
        assert replica.wait() == 0
        assert any(record["msg"] == "replica drained with requests cut off" for record in replica.log_records())


def test_a_drain_with_etcd_away_is_bounded(
    tmp_path: Path, command: list[str], etcd: EtcdConfig, etcd_server: EtcdCluster, store: Store
) -> None:
    with ReplicaProcess(tmp_path / "replica", replica_config(command, etcd)) as replica:
        replica.wait_state("ready")
        _wait_registered(store)
        etcd_server.members[0].pause()
        try:
            replica.terminate()
            assert replica.wait(60) == 0
        finally:
            etcd_server.members[0].resume()


def test_etcd_away_at_the_start_is_no_failure(
    tmp_path: Path, command: list[str], etcd: EtcdConfig, etcd_server: EtcdCluster, store: Store
) -> None:
    etcd_server.stop()
    with ReplicaProcess(tmp_path / "replica", replica_config(command, etcd)) as replica:
        ready = replica.wait_state("ready")
        assert infer(ready.address).tolist() == [1, 2, 3]
        etcd_server.start()
        _wait_registered(store)


def test_a_model_that_cannot_load_is_the_reason(tmp_path: Path, repository: Path, command: list[str]) -> None:
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "config.pbtxt").write_text('name: "broken"\nbackend: "nosuchbackend"\n')
    with ReplicaProcess(tmp_path / "replica", replica_config(command)) as replica:
        failed = replica.wait_state("failed")
        assert replica.wait() == 1
    assert failed.reason.startswith("model broken: ")
    assert "nosuchbackend" in failed.reason
    assert {model.name: model.state for model in failed.models}["echo"] == "READY"


def test_a_missing_model_is_the_reason(tmp_path: Path, command: list[str]) -> None:
    config = replica_config(command)
    config.triton.models.extend(["echo", "nothere"])
    with ReplicaProcess(tmp_path / "replica", config) as replica:
        assert "nothere" in replica.wait_state("failed").reason


def test_a_taken_port_is_the_reason(tmp_path: Path, command: list[str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with ReplicaProcess(tmp_path / "replica", replica_config(command, listen_port=port)) as replica:
            reason = replica.wait_state("failed").reason
    assert f"127.0.0.1:{port}" in reason
    assert "in use" in reason.lower()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["sh", "-c", "echo working >&2; echo 'the artifact has another digest' >&2; exit 1"], "another digest"),
        (["sh", "-c", "exit 7"], "exit code 7"),
        (["/no/such/program"], "/no/such/program"),
        (["sh", "-c", "echo '{\"repositoryPath\": 5}'"], "repositoryPath"),
        (["sh", "-c", "echo nonsense"], "not JSON"),
        (["sh", "-c", 'echo \'{"repositoryPath": "/no/such/folder"}\''], "no libtritonserver"),
    ],
)
def test_a_prepare_command_that_fails_is_the_reason(tmp_path: Path, command: list[str], reason: str) -> None:
    with ReplicaProcess(tmp_path / "replica", replica_config(command)) as replica:
        assert reason in replica.wait_state("failed").reason


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("rubbish", "not JSON"),
        ("{}", "'id'"),
        ('{"id":"a","namespace":"n","application":"x","deployment":"d","prepareCommand":"ls"}', "'prepareCommand'"),
        ('{"id":"a/b","namespace":"n","application":"x","deployment":"d","prepareCommand":["ls"]}', "'a/b'"),
        (
            '{"id":"a","namespace":"n","application":"x","deployment":"d","prepareCommand":["ls"],"logLevel":"loud"}',
            "debug, info, warning, error",
        ),
        (
            '{"id":"a","namespace":"n","application":"x","deployment":"d","prepareCommand":["ls"],'
            '"listenHost":"0.0.0.0"}',
            "'advertiseHost'",
        ),
    ],
)
def test_a_configuration_that_is_wrong_is_the_reason(tmp_path: Path, config: str, reason: str) -> None:
    with ReplicaProcess(tmp_path / "replica", config) as replica:
        assert reason in replica.wait_state("failed").reason
        assert replica.wait() == 1


def test_a_drain_ends_a_prepare_command_that_hangs(tmp_path: Path) -> None:
    child = tmp_path / "child"
    command = ["sh", "-c", f"echo $$ > {child}; sleep 1000 & sleep 1000"]
    with ReplicaProcess(tmp_path / "replica", replica_config(command)) as replica:
        pid = int(eventually(lambda: child.exists() and child.read_text().strip(), timeout_s=90, what="the command"))
        replica.terminate()
        assert replica.wait() == 0
        assert replica.states() == ["draining", "drained"]
    eventually(lambda: not Path(f"/proc/{pid}").exists(), timeout_s=90, what="the command's end")


def test_a_repository_that_is_not_there_is_the_reason(tmp_path: Path, repository: Path, command: list[str]) -> None:
    repository.rename(tmp_path / "elsewhere")
    with ReplicaProcess(tmp_path / "replica", replica_config(command)) as replica:
        assert str(repository) in replica.wait_state("failed").reason


def appending(pid: int, file: Path) -> bool:
    """True when the process has the file open, and only for appending; Triton opens it by itself."""
    flags = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if os.path.realpath(link) == str(file):
            info = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
            flags.append(int(info.split("flags:")[1].split()[0], 8))
    return len(flags) > 1 and all(flag & os.O_APPEND for flag in flags)


def test_logs_carry_the_replicas_names(tmp_path: Path, command: list[str], etcd: EtcdConfig) -> None:
    log = tmp_path / "own.log"
    config = replica_config(command, etcd, log_file=str(log), log_level="debug")
    with ReplicaProcess(tmp_path / "replica", config) as replica:
        replica.wait_state("ready")
        assert appending(replica.popen.pid, log), "else a log that is cut in place would not stay small"
        replica.terminate()
        assert replica.wait() == 0
    records = log_records(log.read_text())
    assert {"replica starts", "replica ready", "replica drained"} <= {record["msg"] for record in records}
    for record in records:
        assert record["namespace"] == "default"
        assert record["application"] == "shop"
        assert record["replica"] == "model-r1-0"
