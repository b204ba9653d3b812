"""An `Embedder` on OpenVINO with Hugging Face's tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import openvino as ov
from tokenizers import Encoding, Tokenizer

from serving.embedding.embedder import Embeddings, Tokens, Vectors, plan_batches
from serving.embedding.minilm import build_graph, packaged_model, read_config, read_weights
from serving.embedding.options import DEFAULT_BATCH_TOKENS, MIN_TOKENS
from serving.errors import FailedPrecondition, InvalidArgument

_GROUP: Final = 32  # activations that share a scale; larger groups cost accuracy (384: a cosine of 0.998 for 9 tokens)
_CHARACTERS_PER_TOKEN: Final = 32  # ordinary text has 4 to 5; what is longer is read only as far as it counts


@dataclass(frozen=True, slots=True)
class EmbedderOptions:
    """`folder` has the model's files; None is the model of the installed package.

    `threads` compute one inference; inferences of one embedder run one after the other. `int8` False keeps the weights
    as they are: vectors within 1e-6 of the published model's instead of a cosine of 0.997 or more.
    `quantised_activations` halves the time of short texts; vectors then depend on what else is in the batch, by up to
    2e-3 in a component and 1e-4 in a cosine.
    """

    folder: Path | None = None
    threads: int = 1
    int8: bool = True
    quantised_activations: bool = False
    max_tokens: int | None = None  # less than the model's own limit
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS  # of one inference, padding included


class OpenVinoEmbedder:
    """Loads when made: half a second, 130 MB. Raises `FailedPrecondition` with what is wrong with the files."""

    def __init__(self, options: EmbedderOptions | None = None) -> None:
        options = options or EmbedderOptions()
        folder = options.folder or packaged_model()
        config = read_config(folder)
        self._dimension = config.hidden
        self._max_tokens = min(config.max_tokens, options.max_tokens or config.max_tokens)
        if self._max_tokens < MIN_TOKENS:
            raise InvalidArgument(f"max_tokens must be at least {MIN_TOKENS}, not {options.max_tokens}")
        self._vocabulary = config.vocabulary
        self._max_batch_tokens = options.max_batch_tokens
        weights = "int8" if options.int8 else "f32"
        how = f"{weights}, quantised activations" if options.quantised_activations else weights
        self._name = f"{folder.name if options.folder else 'all-MiniLM-L6-v2'}/{how}"
        self._tokenizer = _tokenizer(folder, self._max_tokens)
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": options.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if options.quantised_activations else 0,
        }
        graph = build_graph(config, read_weights(folder), int8=options.int8)
        self._request = ov.Core().compile_model(graph, "CPU", properties).create_infer_request()
        self._lock = threading.Lock()

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    @property
    def name(self) -> str:
        return self._name

    @property
    def vocabulary(self) -> int:
        return self._vocabulary

    def encode(self, texts: Sequence[str]) -> Embeddings:
        parts = [self._encode(text, f"text {place}") for place, text in enumerate(texts)]
        vectors = self.compute([part.ids for part in parts])
        return Embeddings(
            vectors, tuple(len(part.ids) for part in parts), tuple(bool(part.overflowing) for part in parts)
        )

    def tokenize(self, text: str) -> Tokens:
        part = self._encode(text, "the text")
        return Tokens(tuple(part.ids), bool(part.overflowing))

    def compute(self, inputs: Sequence[Sequence[int]]) -> Vectors:
        lengths = [len(one) for one in inputs]
        vectors = np.empty((len(inputs), self._dimension), dtype=np.float32)
        for batch in plan_batches(lengths, self._max_batch_tokens):
            ids = np.zeros((len(batch), lengths[batch[0]]), dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, place in enumerate(batch):
                ids[row, : lengths[place]] = inputs[place]
                mask[row, : lengths[place]] = 1
            with self._lock:
                self._request.infer([ids, mask], share_inputs=True)
                vectors[batch] = self._request.get_output_tensor(0).data
        return vectors

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self.encode(texts).vectors

    def _encode(self, text: str, what: str) -> Encoding:
        """Reads no more of a long text than can count: twice as much each time until the limit is reached."""
        characters = self._max_tokens * _CHARACTERS_PER_TOKEN
        try:
            while characters < len(text):
                part = self._tokenizer.encode(text[:characters])
                if part.overflowing:
                    return part
                characters *= 2
            return self._tokenizer.encode(text)
        except (UnicodeEncodeError, TypeError):
            raise InvalidArgument(f"{what} is not Unicode text (a lone surrogate, or no str)") from None


def _tokenizer(folder: Path, max_tokens: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise FailedPrecondition(f"{folder}/tokenizer.json cannot be read: {error}") from None
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer
