"""The same requests to the ingress and to `tritonserver`: the same answers, codes and messages."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2, service_pb2_grpc
from tritonclient.grpc import service_pb2 as pb

from tests.integration.ingress.kserve_cases import cases
from tests.integration.ingress.kserve_servers import Ingress, KServeProcess, Oracle

CASES = cases()
# The oracle's wording, or what it does, is not worth copying there: code only.
OTHER_WORDS: set[str] = set()
SERVICE = "/inference.GRPCInferenceService/"
RUBBISH = {
    "garbage": b"\xff" * 20,
    "truncated": b"\x0a\x50abc",
    "not UTF-8": b"\x0a\x03\xff\xfe\xfd",
    "empty": b"",
    "unknown field": b"\xa2\x06\x01x",
}


def outcome(server: KServeProcess, method: str, request: Message) -> tuple[str, object]:
    """("OK", answer) or (code, message)."""
    try:
        return "OK", getattr(server.stub, method)(request, timeout=60)
    except grpc.RpcError as error:
        return error.code().name, error.details()


@pytest.mark.parametrize("name", CASES)
def test_model_infer(name: str, ingress: Ingress, oracle: Oracle) -> None:
    ours = outcome(ingress, "ModelInfer", CASES[name])
    theirs = outcome(oracle, "ModelInfer", CASES[name])
    assert ours[0] == theirs[0], (ours, theirs)
    if name not in OTHER_WORDS:
        assert ours[1] == theirs[1]


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelConfig"])
@pytest.mark.parametrize("version", ["", "1", "2", "9"])
def test_models(method: str, version: str, ingress: Ingress, oracle: Oracle) -> None:
    names = [model.name for model in oracle.stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=60).models]
    assert len(set(names)) > 15
    for name in [*names, "nope", ""]:
        request = getattr(pb, f"{method}Request")(name=name, version=version)
        assert outcome(ingress, method, request) == outcome(oracle, method, request), name


def test_index(ingress: Ingress, oracle: Oracle) -> None:
    for request in (pb.RepositoryIndexRequest(), pb.RepositoryIndexRequest(ready=True)):
        assert outcome(ingress, "RepositoryIndex", request) == outcome(oracle, "RepositoryIndex", request)
    named = pb.RepositoryIndexRequest(repository_name="x")
    assert outcome(ingress, "RepositoryIndex", named) == outcome(oracle, "RepositoryIndex", named)


def test_statistics(ingress: Ingress, oracle: Oracle) -> None:
    """The same fields are there; the values are each server's own."""

    def shape(message: Message) -> object:
        return {
            field.name: [shape(item) for item in value] if field.is_repeated else shape(value)
            for field, value in message.ListFields()
            if field.message_type is not None and not field.message_type.GetOptions().map_entry
        }

    for server in (ingress, oracle):
        assert outcome(server, "ModelInfer", CASES["good"])[0] == "OK"
    request = pb.ModelStatisticsRequest(name="id_fp32")
    ours, theirs = (outcome(server, "ModelStatistics", request) for server in (ingress, oracle))
    assert isinstance(ours[1], pb.ModelStatisticsResponse)
    assert isinstance(theirs[1], pb.ModelStatisticsResponse)
    assert shape(ours[1]) == shape(theirs[1])
    statistics = ours[1].model_stats[0]
    assert (statistics.name, statistics.version) == ("id_fp32", "1")
    assert statistics.inference_count > 0
    assert statistics.inference_stats.success.count > 0
    assert statistics.inference_stats.success.ns > 0
    assert statistics.last_inference > 10**12
    for name, version in (("nope", ""), ("id_fp32", "9")):
        bad = pb.ModelStatisticsRequest(name=name, version=version)
        assert outcome(ingress, "ModelStatistics", bad) == outcome(oracle, "ModelStatistics", bad)
    everything = ingress.stub.ModelStatistics(pb.ModelStatisticsRequest(), timeout=60)
    assert len(everything.model_stats) > 15


def test_server(ingress: Ingress, oracle: Oracle) -> None:
    for method in ("ServerLive", "ServerReady"):
        request = getattr(pb, f"{method}Request")()
        assert outcome(ingress, method, request) == outcome(oracle, method, request)
    ours, theirs = (server.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=60) for server in (ingress, oracle))
    assert (ours.name, ours.version) == (theirs.name, theirs.version)
    missing = set(theirs.extensions) - set(ours.extensions)
    assert set(ours.extensions) <= set(theirs.extensions)
    offered_elsewhere = {"model_repository", "model_repository(unload_dependents)"}
    assert missing == {"cuda_shared_memory"} | offered_elsewhere, "only what is offered is announced"


@pytest.mark.parametrize("rubbish", RUBBISH)
@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelConfig", "RepositoryIndex", "ServerLive"])
def test_rubbish_gets_the_same_code(method: str, rubbish: str, ingress: Ingress, oracle: Oracle) -> None:
    codes = []
    for server in (ingress, oracle):
        call = server.channel.unary_unary(SERVICE + method)
        try:
            call(RUBBISH[rubbish], timeout=60)
            codes.append("OK")
        except grpc.RpcError as error:
            codes.append(error.code().name)
    assert codes[0] == codes[1]


def test_every_method_of_the_service_is_answered(ingress: Ingress) -> None:
    methods = [name for name in dir(service_pb2_grpc.GRPCInferenceServiceServicer) if not name.startswith("_")]
    assert len(methods) == 20
    for name in set(methods) - {"ModelStreamInfer"}:
        call = ingress.channel.unary_unary(SERVICE + name).future(b"", timeout=60)
        assert call.code() != grpc.StatusCode.UNIMPLEMENTED, name


def test_rich_configuration_survives(ingress: Ingress) -> None:
    config = ingress.stub.ModelConfig(pb.ModelConfigRequest(name="rich"), timeout=60).config
    batching = config.dynamic_batching
    assert list(batching.preferred_batch_size) == [2, 4]
    assert batching.priority_queue_policy[1].timeout_action == model_config_pb2.ModelQueuePolicy.DELAY
    assert config.parameters["note"].string_value == "Größe"
    assert config.model_warmup[0].inputs["INPUT0"].zero_data
    assert list(config.version_policy.specific.versions) == [1, 2]
    assert config.instance_group[0].count == 2
