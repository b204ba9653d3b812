"""Options of the OpenVINO engine, and what is found in folders."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from serving.errors import FailedPrecondition, InvalidArgument
from serving.llm.gguf_header import read_header
from serving.llm.openvino_config import OpenVinoOptions, find_model


def gguf(path: Path, pairs: dict[str, Any], tensors: int = 0) -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    data = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(pairs))
    for name, value in pairs.items():
        data += text(name)
        if isinstance(value, str):
            data += struct.pack("<I", 8) + text(value)
        elif isinstance(value, list):
            data += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        else:
            data += struct.pack("<II", 4, value)
    if tensors:
        data += text("weights") + struct.pack("<IQQIQ", 2, 8, 4, 0, 0)
        data += b"\0" * (-len(data) % 32) + b"\0" * 128
    path.write_bytes(data)
    return path


LLAMA = {
    "general.architecture": "llama",
    "tokenizer.ggml.tokens": ["a", "b"],
    "llama.context_length": 2048,
    "llama.block_count": 3,
    "llama.embedding_length": 128,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
}


def test_a_header_is_read_without_its_arrays(tmp_path: Path) -> None:
    found = read_header(gguf(tmp_path / "a.gguf", LLAMA, tensors=1))
    assert found == {name: value for name, value in LLAMA.items() if not isinstance(value, list)}


def test_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = gguf(tmp_path / "a.gguf", LLAMA, tensors=1)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(FailedPrecondition, match=r"a\.gguf is "):
            read_header(path)


def test_sizes_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for data in (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 99),
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    ):
        path.write_bytes(data)
        with pytest.raises(FailedPrecondition, match=r"a\.gguf is "):
            read_header(path)


def test_a_gguf_says_how_large_its_cache_is(tmp_path: Path) -> None:
    options = OpenVinoOptions.of({"cache_mb": 1})
    files = find_model(gguf(tmp_path / "a.gguf", LLAMA, tensors=1).parent, options)
    assert files.path == tmp_path / "a.gguf"
    assert files.context_tokens == 2048
    assert files.block_bytes == 3 * 2 * (32 + 32) * 2 * 32  # layers, heads, key and value, two bytes, tokens
    assert files.blocks(options) == (1 << 20) // files.block_bytes


def test_openvino_ir_says_it_in_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").touch()
    with pytest.raises(FailedPrecondition, match=r"config\.json must say how large the model is"):
        find_model(tmp_path, OpenVinoOptions())
    config = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 128}
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    files = find_model(tmp_path, OpenVinoOptions())
    assert (files.path, files.context_tokens, files.block_bytes) == (tmp_path, 4096, 3 * 2 * 64 * 2 * 32)


def test_other_folders_are_refused_with_what_is_there_and_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"none does not exist; a folder with one \.gguf"):
        find_model(tmp_path / "none", OpenVinoOptions())
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FailedPrecondition, match=r"holds no model \(notes\.txt\)"):
        find_model(tmp_path, OpenVinoOptions())
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FailedPrecondition, match=r"optimum-cli export openvino .* or run it with the engine `vllm`"):
        find_model(tmp_path, OpenVinoOptions())
    for name in ("a.gguf", "b.gguf"):
        gguf(tmp_path / name, LLAMA)
    with pytest.raises(FailedPrecondition, match=r"2 GGUF files \(a\.gguf, b\.gguf\); one is wanted: name the file"):
        find_model(tmp_path, OpenVinoOptions())
    assert find_model(tmp_path / "b.gguf", OpenVinoOptions()).path.name == "b.gguf"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"thread": 2}, "did you mean `threads`"),
        ({"threads": "2"}, "threads: a whole number is wanted"),
        ({"cache_mb": 0}, "cache_mb: at least 1"),
        ({"max_running": 0}, "max_running: at least 1"),
        ({"max_batched_tokens": -1}, "max_batched_tokens: -1 is negative"),
        ({"device": "NPU"}, "device: CPU, GPU or"),
        ({"precision": "int4"}, "precision: one of f32"),
        ({"prefix_cache": 1}, "prefix_cache: true or false"),
    ],
)
def test_wrong_options_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=f"engine options: .*{message}"):
        OpenVinoOptions.of(values)


def test_one_thread_computes_in_f32() -> None:
    assert OpenVinoOptions.of({"threads": 1}).plugin_properties()["INFERENCE_PRECISION_HINT"] == "f32"
    assert "INFERENCE_PRECISION_HINT" not in OpenVinoOptions.of({"threads": 2}).plugin_properties()
    assert OpenVinoOptions.of({"threads": 2, "precision": "bf16"}).plugin_properties() == {
        "sampler_num_threads": 2,
        "INFERENCE_NUM_THREADS": 2,
        "INFERENCE_PRECISION_HINT": "bf16",
    }
