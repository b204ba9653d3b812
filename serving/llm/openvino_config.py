"""What the OpenVINO engine is told (`OpenVinoOptions`) and what it finds in a model's folder (`ModelFiles`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serving.errors import FailedPrecondition, InvalidArgument
from serving.llm.gguf_header import Scalar, read_header
from serving.llm.yielding import Yielding
from serving.settings import build_settings

# Tokens in a block of the cache of keys and values: fixed by OpenVINO's plugins.
_BLOCK_TOKENS: Final = {"CPU": 32, "GPU": 16}
_PRECISIONS: Final = ("", "f32", "f16", "bf16")
_IR: Final = "openvino_model.xml"


@dataclass(frozen=True)
class OpenVinoOptions:
    """`threads` 0: the CPUs that the process may use. `context_tokens` 0: what the model was made for.

    `cache_mb`: memory for keys and values, at most. `max_running`: generations that are computed together; more wait.
    `max_batched_tokens`: of all prompts and answers in one step; smaller lets running answers wait less for long
    prompts. `precision` of the computation: empty lets OpenVINO choose. `batch_share`: by how much generations of the
    class batch may make a step of others longer. `batch_patience_s`: who of them has waited so long is computed
    beside others, one after the other.
    """

    threads: int = 0
    cache_mb: int = 1024
    max_running: int = 32
    max_batched_tokens: int = 512
    prefix_cache: bool = True
    context_tokens: int = 0
    device: str = "CPU"
    precision: str = ""
    batch_share: float = 0.05
    batch_patience_s: float = 30.0

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = "engine options") -> OpenVinoOptions:
        """Raises `InvalidArgument` that names the wrong option."""
        options = build_settings(cls, values, where)
        for name in ("cache_mb", "max_running", "max_batched_tokens"):
            if getattr(options, name) < 1:
                raise InvalidArgument(f"{where}: {name}: at least 1 is wanted, found {getattr(options, name)}")
        for name in ("batch_share", "batch_patience_s"):
            if not 0 <= getattr(options, name) < float("inf"):
                raise InvalidArgument(f"{where}: {name}: at least 0 is wanted, found {getattr(options, name)}")
        if options.device.split(".")[0] not in _BLOCK_TOKENS:
            raise InvalidArgument(f"{where}: device: CPU, GPU or GPU.<n> is wanted, found {options.device!r}")
        if options.precision not in _PRECISIONS:
            raise InvalidArgument(
                f"{where}: precision: one of f32, f16, bf16 or nothing is wanted, found {options.precision!r}"
            )
        return options

    @property
    def block_tokens(self) -> int:
        return _BLOCK_TOKENS[self.device.split(".")[0]]

    def yielding(self) -> Yielding:
        return Yielding(self.batch_share, self.batch_patience_s)

    def plugin_properties(self) -> dict[str, Any]:
        """For OpenVINO's plugin and GenAI's sampler."""
        threads = self.threads or _usable_cpus()
        properties: dict[str, Any] = {"sampler_num_threads": threads}
        precision = self.precision
        if self.device == "CPU":
            properties["INFERENCE_NUM_THREADS"] = threads
            # With one thread, OpenVINO 2026.4.1 divides by zero in bf16 (its choice where the CPU has AMX): the whole
            # process dies while the model is compiled.
            if threads == 1:
                precision = "f32"
        if precision:
            properties["INFERENCE_PRECISION_HINT"] = precision
        return properties


@dataclass(frozen=True)
class ModelFiles:
    """A model that OpenVINO GenAI can load: `path` is a GGUF file, or a folder with OpenVINO IR."""

    path: Path
    context_tokens: int  # what it was made for; 0: it does not say
    block_bytes: int  # one block of the cache of keys and values, if it has 16 bits for each number

    def blocks(self, options: OpenVinoOptions) -> int:
        """How many blocks of the cache fit. Raises `FailedPrecondition` when that is less than one."""
        blocks = (options.cache_mb << 20) // self.block_bytes
        if not blocks:
            raise FailedPrecondition(
                f"cache_mb: {options.cache_mb} MiB do not hold one block of {options.block_tokens} tokens, which takes "
                f"{self.block_bytes / (1 << 20):.1f} MiB for this model"
            )
        return blocks


def find_model(folder: Path, options: OpenVinoOptions) -> ModelFiles:
    """Raises `FailedPrecondition` that says what lies in `folder` and what is wanted."""
    if folder.is_file() and folder.suffix == ".gguf":
        return _from_gguf(folder, options)
    if not folder.is_dir():
        raise FailedPrecondition(f"the model {folder} does not exist; {_WANTED}")
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return _from_gguf(ggufs[0], options)
    if len(ggufs) > 1:
        names = ", ".join(path.name for path in ggufs[:5])
        raise FailedPrecondition(f"{folder} holds {len(ggufs)} GGUF files ({names}); one is wanted: name the file")
    if (folder / _IR).is_file():
        return _from_ir(folder, options)
    if any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
        raise FailedPrecondition(
            f"{folder} holds a Hugging Face model in safetensors or PyTorch files, which the engine `openvino` cannot "
            "load as it is: convert it (`optimum-cli export openvino --model <folder> <new folder>`), take a GGUF of "
            "it, or run it with the engine `vllm`"
        )
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise FailedPrecondition(f"{folder} holds no model ({names}); {_WANTED}")


_WANTED: Final = f"a folder with one .gguf file, or with OpenVINO IR ({_IR} and its tokenizer), is wanted"


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _from_gguf(path: Path, options: OpenVinoOptions) -> ModelFiles:
    header = read_header(path)
    kind = header.get("general.architecture", "")

    def number(name: str, default: int = 0) -> int:
        value: Scalar = header.get(f"{kind}.{name}", default)
        return value if isinstance(value, int) else default

    heads = number("attention.head_count")
    size = number("embedding_length") // heads if heads else 0
    key, value = number("attention.key_length", size), number("attention.value_length", size)
    numbers = number("block_count") * number("attention.head_count_kv", heads) * (key + value)
    if not numbers:
        raise FailedPrecondition(f"{path} does not say how large its attention is ({kind or 'no'} architecture)")
    return ModelFiles(path, number("context_length"), 2 * numbers * options.block_tokens)


def _from_ir(folder: Path, options: OpenVinoOptions) -> ModelFiles:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        heads = int(config["num_attention_heads"])
        size = int(config.get("head_dim") or config["hidden_size"] // heads)
        numbers = 2 * int(config["num_hidden_layers"]) * int(config.get("num_key_value_heads") or heads) * size
        context = int(config.get("max_position_embeddings") or 0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FailedPrecondition(
            f"{path} must say how large the model is (num_hidden_layers, num_attention_heads, hidden_size; Hugging "
            f"Face's format): {error!r}"
        ) from error
    return ModelFiles(folder, context, 2 * numbers * options.block_tokens)
