"""Server reflection by grpcio-reflection's client, and our protos against tritonclient's."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc
from tritonclient.grpc import model_config_pb2, service_pb2

from tests.integration.rpc.rpc_server import ROOT

TIMEOUT_S = 60.0
FileSet = descriptor_pb2.FileDescriptorSet


@pytest.fixture
def pool(channel: grpc.Channel) -> DescriptorPool:
    return DescriptorPool(ProtoReflectionDescriptorDatabase(channel))


def test_services_are_listed(channel: grpc.Channel) -> None:
    assert set(ProtoReflectionDescriptorDatabase(channel).get_services()) == {
        "mesh.test.Echo",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_inference_service_is_described(pool: DescriptorPool) -> None:
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    assert service.methods_by_name["ModelInfer"].input_type.fields_by_name["raw_input_contents"].number == 7
    assert pool.FindMessageTypeByName("inference.ModelConfig").fields_by_name["model_metrics"].number == 26
    assert (
        pool.FindServiceByName("grpc.health.v1.Health").methods_by_name["Watch"].output_type.name
        == "HealthCheckResponse"
    )


def test_files_come_with_their_imports(channel: grpc.Channel) -> None:
    answer = ask(channel, "v1", reflection_pb2.ServerReflectionRequest(file_by_filename="open_inference.proto"))
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file).name
        for file in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert files == ["open_inference.proto", "open_inference_model_config.proto"]


def ask(
    channel: grpc.Channel, version: str, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    (answer,) = channel.stream_stream(path)(iter([request.SerializeToString()]), timeout=TIMEOUT_S)
    return reflection_pb2.ServerReflectionResponse.FromString(answer)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Such"), grpc.StatusCode.NOT_FOUND),
        (reflection_pb2.ServerReflectionRequest(file_by_filename="no.proto"), grpc.StatusCode.NOT_FOUND),
        (reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="no.Such"), grpc.StatusCode.NOT_FOUND),
        (
            reflection_pb2.ServerReflectionRequest(
                file_containing_extension=reflection_pb2.ExtensionRequest(
                    containing_type="inference.ModelConfig", extension_number=9
                )
            ),
            grpc.StatusCode.NOT_FOUND,
        ),
        (reflection_pb2.ServerReflectionRequest(), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_what_is_not_known_is_an_error_answer(
    channel: grpc.Channel, version: str, request_: reflection_pb2.ServerReflectionRequest, code: grpc.StatusCode
) -> None:
    answer = ask(channel, version, request_)
    assert answer.error_response.error_code == code.value[0]
    assert answer.original_request == request_


def test_types_without_extensions(channel: grpc.Channel) -> None:
    request = reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="inference.ModelConfig")
    answer = ask(channel, "v1", request).all_extension_numbers_response
    assert (answer.base_type_name, list(answer.extension_number)) == ("inference.ModelConfig", [])


def test_rubbish_is_refused(channel: grpc.Channel) -> None:
    call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.RpcError) as raised:
        list(call(iter([b"\xff\xff\xff"]), timeout=TIMEOUT_S))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def compiled(folder: Path, *protos: str) -> FileSet:
    out = folder / "set.bin"
    assert (
        protoc.main(["protoc", f"-I{ROOT / 'proto'}", "--include_imports", f"--descriptor_set_out={out}", *protos]) == 0
    )
    return FileSet.FromString(out.read_bytes())


def described(descriptor: object) -> descriptor_pb2.FileDescriptorProto:
    plain = descriptor_pb2.FileDescriptorProto()
    descriptor.CopyToProto(plain)  # type: ignore[attr-defined]
    return plain


def normalized(proto: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """Without what does not show on the wire: file names, and names for JSON that follow from the others."""
    plain = descriptor_pb2.FileDescriptorProto()
    plain.CopyFrom(proto)
    for field in ("name", "dependency", "options", "source_code_info"):
        plain.ClearField(field)  # type: ignore[arg-type]

    def clear(message: descriptor_pb2.DescriptorProto) -> None:
        for entry in message.field:
            entry.ClearField("json_name")
        for nested in message.nested_type:
            clear(nested)

    for message in plain.message_type:
        clear(message)
    for service in plain.service:
        for rpc in service.method:
            rpc.ClearField("options")
    return plain


def test_our_protos_equal_tritons(tmp_path: Path) -> None:
    ours = {file.name: normalized(file) for file in compiled(tmp_path, "open_inference.proto").file}
    assert ours["open_inference.proto"] == normalized(described(service_pb2.DESCRIPTOR))
    assert ours["open_inference_model_config.proto"] == normalized(described(model_config_pb2.DESCRIPTOR))
