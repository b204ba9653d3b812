"""Turns the committed GGUF file into a Hugging Face folder, for engines that read only those (vLLM)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, models

from examples.chat.training.tokenizer import SPECIAL, around

_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHERS: Final = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def convert(file: Path, folder: Path) -> None:
    """Writes config.json, model.safetensors and the tokenizer into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(file)
    values = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(values)
    tensors = dict(_tensor(item, config["num_attention_heads"]) for item in reader.tensors)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    _write(folder / "config.json", config)
    _tokenizer(values, folder)


def _config(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "vocab_size": values["llama.vocab_size"],
        "hidden_size": values["llama.embedding_length"],
        "intermediate_size": values["llama.feed_forward_length"],
        "num_hidden_layers": values["llama.block_count"],
        "num_attention_heads": values["llama.attention.head_count"],
        "num_key_value_heads": values["llama.attention.head_count_kv"],
        "head_dim": values["llama.attention.key_length"],
        "max_position_embeddings": values["llama.context_length"],
        "rms_norm_eps": values["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": values["llama.rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "pad_token_id": values["tokenizer.ggml.padding_token_id"],
    }


def _tensor(item: Any, heads: int) -> tuple[str, np.ndarray[Any, Any]]:
    """GGUF turns neighbours of a head by position, Hugging Face's Llama turns halves: rows change their places."""
    matrix = np.asarray(item.data, np.float32)
    if item.name in _OTHERS:
        return _OTHERS[item.name], matrix
    _, layer, kind, _ = item.name.split(".")
    if kind in ("attn_q", "attn_k"):
        rows, columns = matrix.shape
        halves = matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2)
        matrix = np.ascontiguousarray(halves.reshape(rows, columns))
    return f"model.layers.{layer}.{_LAYER[kind]}.weight", matrix


def _tokenizer(values: dict[str, Any], folder: Path) -> None:
    tokens = values["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in values["tokenizer.ggml.merges"]]
    tokenizer = around(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {
        f"{name}_token": tokens[values[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": values["llama.context_length"],
            "chat_template": values["tokenizer.chat_template"],
            "clean_up_tokenization_spaces": False,
            **named,
        },
    )


def _write(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2), encoding="utf-8")
