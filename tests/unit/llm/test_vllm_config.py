"""What the vLLM engine is told, and what it wants to find; without vLLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from serving.errors import FailedPrecondition, InvalidArgument
from serving.llm.vllm_config import VllmOptions, check_folder
from serving.llm.vllm_package import import_vllm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_model_length": 1}, "no setting `max_model_length`; did you mean `max_model_len`"),
        ({"dtype": "int8"}, "dtype: one of auto, float32, float16, bfloat16 is wanted, found 'int8'"),
        ({"gpu_memory_utilization": 0}, "gpu_memory_utilization: more than 0, at most 1 is wanted, found 0"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization: .* found 1.5"),
        ({"gpu_memory_utilization": float("nan")}, "gpu_memory_utilization"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size: at least 1"),
        ({"max_num_seqs": -1}, "max_num_seqs: -1 is negative"),
        ({"trust_remote_code": 1}, "trust_remote_code: true or false is wanted"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        VllmOptions.of(options)


def test_what_is_not_said_is_left_to_vllm() -> None:
    plain = VllmOptions.of({}).engine_args(Path("/m"), 7)
    assert plain["max_model_len"] == -1  # as much as fits
    assert plain["trust_remote_code"] is False
    assert (plain["model"], plain["seed"], plain["scheduling_policy"]) == ("/m", 7, "priority")
    left = {"max_num_seqs", "max_num_batched_tokens", "quantization", "kv_cache_memory_bytes"}
    assert not left.intersection(plain)
    assert "distributed_executor_backend" not in plain
    said = VllmOptions.of({"max_num_seqs": 8, "quantization": "fp8", "tensor_parallel_size": 2, "max_model_len": 99})
    arguments = said.engine_args(Path("/m"), 7)
    assert (arguments["max_num_seqs"], arguments["quantization"], arguments["max_model_len"]) == (8, "fp8", 99)
    assert arguments["distributed_executor_backend"] == "mp"


def test_without_vllm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(FailedPrecondition, match=r"needs the package vllm .*pip install -r requirements/vllm.txt"):
        import_vllm()


def model_in(folder: Path, *shards: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for shard in shards:
        save_file({"weight": np.zeros((64, 64), np.float32)}, str(folder / shard))
    return folder


def test_whole_folders_are_taken(tmp_path: Path) -> None:
    check_folder(model_in(tmp_path / "one", "model.safetensors"))
    many = model_in(tmp_path / "many", "a.safetensors", "b.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (many / "model.safetensors.index.json").write_text(json.dumps(index))
    check_folder(many)


def test_folders_that_are_something_else_are_refused(tmp_path: Path) -> None:
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(FailedPrecondition, match=message):
            check_folder(folder)

    refused(tmp_path / "none", "does not exist; a Hugging Face folder")
    refused(tmp_path, r"holds no config\.json \(nothing\)")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    refused(tmp_path, "is a GGUF, which the engine `vllm` does not load: use the engine `openvino`")
    refused(tmp_path / "m.gguf", "is a GGUF")
    converted = model_in(tmp_path / "ir")
    refused(converted, "holds no weights")
    (converted / "openvino_model.xml").touch()
    refused(converted, "is in OpenVINO's format")


def test_files_that_are_missing_or_cut_off_are_named(tmp_path: Path) -> None:
    folder = model_in(tmp_path / "m", "a.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    with pytest.raises(FailedPrecondition, match=r"lacks 1 of 2 files, such as b\.safetensors"):
        check_folder(folder)
    for wrong in ("{", "[]", '{"weight_map": 3}'):
        index.write_text(wrong)
        with pytest.raises(FailedPrecondition, match="does not say where the weights are"):
            check_folder(folder)
    index.unlink()
    whole = (folder / "a.safetensors").read_bytes()
    for size in (0, 5, 100, len(whole) - 1):
        (folder / "a.safetensors").write_bytes(whole[:size])
        with pytest.raises(FailedPrecondition, match=r"a\.safetensors is damaged or cut off"):
            check_folder(folder)
