"""Writes network, tokenizer and chat template as one GGUF file (llama architecture, matrices in half precision)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from tokenizers import Tokenizer

from examples.chat.training.model import ChatModel
from examples.chat.training.tokenizer import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN, PRE_TOKENIZER, SPECIAL

NAME: Final = "tiny-chat"


def write(file: Path, model: ChatModel, tokenizer: Tokenizer) -> None:
    """Replaces the file at once: who reads it has the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.unfinished")
    writer = gguf.GGUFWriter(unfinished, "llama")
    _write_shape(writer, model)
    _write_tokenizer(writer, tokenizer)
    _write_tensors(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(unfinished, file)


def _write_shape(writer: gguf.GGUFWriter, model: ChatModel) -> None:
    shape = model.shape
    writer.add_name(NAME)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.positions)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    kinds = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")  # GGUF's name of byte-level BPE
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(END_OF_TURN)
    writer.add_pad_token_id(END_OF_TEXT)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _write_tensors(writer: gguf.GGUFWriter, model: ChatModel) -> None:
    """The network's parameters have GGUF's names already. Norms stay in single precision, as is usual."""
    for name, parameter in model.state_dict().items():
        precision = np.float32 if parameter.dim() == 1 else np.float16
        writer.add_tensor(name, parameter.numpy().astype(precision))
