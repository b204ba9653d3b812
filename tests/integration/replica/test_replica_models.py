"""Clients load and unload models of a replica: its endpoint and report follow; its traces lie beside its log."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from serving._proto.records_pb2 import TritonDeployment
from serving.config import EtcdConfig
from tests.integration.replica.replica_harness import (
    ReplicaProcess,
    Store,
    endpoint_key,
    infer,
    replica_config,
    write_model,
)
from tests.support.waiting import eventually


def _served(store: Store) -> list[str]:
    endpoint = store.endpoint(endpoint_key())
    return sorted(model.name for model in endpoint.models) if endpoint is not None else []


def test_endpoint_and_report_follow(
    tmp_path: Path, repository: Path, command: list[str], etcd: EtcdConfig, store: Store
) -> None:
    write_model(repository, "other")
    triton = TritonDeployment(models=["echo"], model_control="explicit")
    with ReplicaProcess(tmp_path / "replica", replica_config(command, etcd, triton=triton)) as replica:
        address = replica.wait_state("ready").address
        eventually(lambda: _served(store) == ["echo"], timeout_s=90, what="the endpoint")
        with grpc.insecure_channel(address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="other"), timeout=60)
            assert infer(address, "other").size == 3
            eventually(
                lambda: _served(store) == ["echo", "other"], timeout_s=90, what="the loaded model in the endpoint"
            )
            stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="echo"), timeout=60)
            eventually(lambda: _served(store) == ["other"], timeout_s=90, what="the unloaded one to leave it")
            # A call begins when the model of the one before has ended.
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="other"), timeout=60)
            assert stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready
        replica.terminate()
        assert replica.wait() == 0, replica.log_text()
        assert replica.states() == ["loading", "ready", "draining", "drained"]
        models = {model.name: (model.state, model.reason) for model in replica.reports()[-2].models}
    assert models == {"echo": ("UNAVAILABLE", "unloaded"), "other": ("READY", "")}


def test_the_default_is_that_clients_may_not(tmp_path: Path, command: list[str]) -> None:
    with ReplicaProcess(tmp_path / "replica", replica_config(command)) as replica:
        with grpc.insecure_channel(replica.wait_state("ready").address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError) as raised:
                stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="echo"), timeout=60)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "model_control" in str(raised.value.details())


def test_traces_lie_beside_the_log(tmp_path: Path, command: list[str]) -> None:
    config = replica_config(command, log_file=str(tmp_path / "own.log"))
    with ReplicaProcess(tmp_path / "replica", config) as replica:
        address = replica.wait_state("ready").address
        request = pb.TraceSettingRequest()
        for name, value in {"trace_level": "TIMESTAMPS", "trace_rate": "1", "trace_count": "2"}.items():
            request.settings[name].value.append(value)
        with grpc.insecure_channel(address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = stub.TraceSetting(request, timeout=60)
        assert list(answer.settings["trace_file"].value) == [str(tmp_path / "own.trace.json")]
        for _ in range(3):
            infer(address)
        file = tmp_path / "own.trace.json.0"
        eventually(file.exists, timeout_s=90, what="the traces")
        replica.terminate()
        assert replica.wait() == 0
    records = json.loads(file.read_text())
    assert [record["model_name"] for record in records if "model_name" in record] == ["echo", "echo"]
