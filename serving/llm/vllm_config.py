"""What the vLLM engine is told (`VllmOptions`) and what it wants to find in a model's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serving.errors import FailedPrecondition, InvalidArgument
from serving.settings import build_settings

_DTYPES: Final = ("auto", "float32", "float16", "bfloat16")
_CONFIG: Final = "config.json"
_INDEX: Final = "model.safetensors.index.json"
_FIT_INTO_MEMORY: Final = -1
_WANTED: Final = "a Hugging Face folder (config.json, *.safetensors and its tokenizer) is wanted"


@dataclass(frozen=True)
class VllmOptions:
    """Under vLLM's own names. 0 and empty texts leave the choice to vLLM.

    `max_model_len`: tokens of prompt and answer together; 0 is the model's own, or as many as fit into the memory.
    `gpu_memory_utilization`: the share of each GPU's memory that it may use, and of the machine's on CPUs;
    `kv_cache_memory_bytes` says exactly how much of it is for keys and values. `tensor_parallel_size`: GPUs that share
    the model; as many `gpus` are wanted in the deployment's resources. `trust_remote_code` runs Python that lies beside
    the weights. `max_logprobs`: the most alternatives for each token.
    """

    dtype: str = "auto"
    max_model_len: int = 0
    gpu_memory_utilization: float = 0.9
    kv_cache_memory_bytes: int = 0
    tensor_parallel_size: int = 1
    max_num_seqs: int = 0
    max_num_batched_tokens: int = 0
    max_logprobs: int = 20
    quantization: str = ""
    kv_cache_dtype: str = "auto"
    enable_prefix_caching: bool = True
    enforce_eager: bool = False
    trust_remote_code: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = "engine options") -> VllmOptions:
        """Raises `InvalidArgument` that names the wrong option."""
        options = build_settings(cls, values, where)
        if options.dtype not in _DTYPES:
            raise InvalidArgument(f"{where}: dtype: one of {', '.join(_DTYPES)} is wanted, found {options.dtype!r}")
        share = options.gpu_memory_utilization
        if not (math.isfinite(share) and 0 < share <= 1):
            raise InvalidArgument(f"{where}: gpu_memory_utilization: more than 0, at most 1 is wanted, found {share:g}")
        if options.tensor_parallel_size < 1:
            raise InvalidArgument(f"{where}: tensor_parallel_size: at least 1 is wanted, found 0")
        return options

    def engine_args(self, folder: Path, seed: int) -> dict[str, Any]:
        """For vLLM's `AsyncEngineArgs`. `seed` is that of requests which bring none."""
        arguments: dict[str, Any] = {
            "model": str(folder),
            "dtype": self.dtype,
            "max_model_len": self.max_model_len or _FIT_INTO_MEMORY,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "tensor_parallel_size": self.tensor_parallel_size,
            "max_logprobs": self.max_logprobs,
            "kv_cache_dtype": self.kv_cache_dtype,
            "enable_prefix_caching": self.enable_prefix_caching,
            "enforce_eager": self.enforce_eager,
            "trust_remote_code": self.trust_remote_code,
            "seed": seed,
            "scheduling_policy": "priority",
            # One for all requests, and the one that `VllmGuides` asks: `auto` would let the first request choose.
            "structured_outputs_config": {"backend": "xgrammar"},
            "disable_log_stats": True,
        }
        for name in ("kv_cache_memory_bytes", "max_num_seqs", "max_num_batched_tokens", "quantization"):
            if value := getattr(self, name):
                arguments[name] = value
        if self.tensor_parallel_size > 1:
            # Inside of a Ray actor vLLM would start actors of its own, outside of what the deployment was given.
            arguments["distributed_executor_backend"] = "mp"
        return arguments


def check_folder(folder: Path) -> None:
    """Raises `FailedPrecondition` that says what lies in `folder` and what is wanted."""
    if not folder.exists():
        raise FailedPrecondition(f"the model {folder} does not exist; {_WANTED}")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [folder.name]
    if "openvino_model.xml" in names or (_CONFIG not in names and any(name.endswith(".gguf") for name in names)):
        kind = "in OpenVINO's format" if "openvino_model.xml" in names else "a GGUF"
        raise FailedPrecondition(
            f"{folder} is {kind}, which the engine `vllm` does not load: use the engine `openvino`; for vLLM {_WANTED}"
        )
    if _CONFIG not in names:
        raise FailedPrecondition(f"{folder} holds no {_CONFIG} ({', '.join(names[:8]) or 'nothing'}); {_WANTED}")
    _check_shards(folder)


def _check_shards(folder: Path) -> None:
    """What vLLM would only tell the log of another process: files that are missing or were cut off."""
    shards = set(folder.glob("*.safetensors"))
    if not shards and not any(folder.glob("*.bin")) and not any(folder.glob("*.pt")):
        raise FailedPrecondition(f"{folder} holds no weights; {_WANTED}")
    if (folder / _INDEX).is_file():
        try:
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            wanted = set(index["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FailedPrecondition(f"{folder / _INDEX} does not say where the weights are: {error!r}") from error
        if missing := sorted(wanted - {path.name for path in shards}):
            raise FailedPrecondition(f"{folder} lacks {len(missing)} of {len(wanted)} files, such as {missing[0]}")
    for shard in sorted(shards):
        _check_shard(shard)


def _check_shard(shard: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(shard), framework="numpy") as file:
            if not file.keys():
                raise FailedPrecondition(f"{shard} holds no weights")
    except (SafetensorError, OSError) as error:
        raise FailedPrecondition(f"{shard} is damaged or cut off ({error}); copy it again") from error
