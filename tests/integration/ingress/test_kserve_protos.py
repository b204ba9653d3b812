"""Our proto files and tables against the descriptors that clients hold."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc import service_pb2 as pb

ROOT = Path(__file__).resolve().parents[3]


def _generator() -> ModuleType:
    path = ROOT / "cpp_ext" / "ingress" / "generate_tables.py"
    spec = importlib.util.spec_from_file_location("generate_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _fields(message: Descriptor) -> set[tuple[str, int, int, bool, str]]:
    return {
        (f.name, f.number, f.type, f.is_repeated, f.containing_oneof.name if f.containing_oneof else "")
        for f in message.fields
    }


def test_model_config_has_the_clients_fields() -> None:
    generator = _generator()
    ours = generator.reachable(generator.load(ROOT / "proto" / "open_inference_model_config.proto", "ModelConfig"), {})
    theirs = generator.reachable(model_config_pb2.ModelConfig.DESCRIPTOR, {})
    assert ours.keys() == theirs.keys()
    for name, message in ours.items():
        assert _fields(message) == _fields(theirs[name]), name
        for field in message.fields:
            if field.enum_type is not None:
                values = {(value.name, value.number) for value in field.enum_type.values}
                other = theirs[name].fields_by_name[field.name].enum_type
                assert values == {(value.name, value.number) for value in other.values}, field.full_name


def test_hand_written_tables_have_the_clients_numbers() -> None:
    """control_tables.cc names fields of the answers; each must exist with its number."""
    source = (ROOT / "cpp_ext" / "ingress" / "control_tables.cc").read_text()
    blocks = dict(re.findall(r"FieldTable k(\w+)Fields\[\] = \{(.*?)\};", source, re.DOTALL))
    messages = {
        "ServerMetadata": pb.ServerMetadataResponse,
        "Tensor": pb.ModelMetadataResponse.TensorMetadata,
        "ModelMetadata": pb.ModelMetadataResponse,
        "Duration": pb.StatisticDuration,
        "Infer": pb.InferStatistics,
        "Response": pb.InferResponseStatistics,
        "ResponseEntry": pb.ModelStatistics.ResponseStatsEntry,
        "Batch": pb.InferBatchStatistics,
        "Memory": pb.MemoryUsage,
        "Model": pb.ModelStatistics,
        "ModelStatistics": pb.ModelStatisticsResponse,
        "ModelIndex": pb.RepositoryIndexResponse.ModelIndex,
    }
    assert blocks.keys() == messages.keys()
    for name, message in messages.items():
        listed = {(field, int(number)) for field, number in re.findall(r'"(\w+)", (\d+)', blocks[name])}
        assert listed == {(field.name, field.number) for field in message.DESCRIPTOR.fields}, name
