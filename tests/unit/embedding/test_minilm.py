"""The vectors: against values known of the published model, against its float form, and for odd texts."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from serving.embedding.embedder import plan_batches
from serving.embedding.minilm import packaged_model
from serving.embedding.openvino_embedder import EmbedderOptions, OpenVinoEmbedder
from serving.errors import FailedPrecondition, InvalidArgument

# The first three pairs and their cosines are those of the model's documentation (sentence-transformers, "Usage").
KNOWN = [
    ("The weather is lovely today.", "It's so sunny outside!", 0.6660),
    ("The weather is lovely today.", "He drove to the stadium.", 0.1046),
    ("It's so sunny outside!", "He drove to the stadium.", 0.1411),
]
TEXTS = [
    "What is the capital of France?",
    "How do I reset my password?",
    "Explain the water cycle to a child of six years in three sentences, please.",
    "The quick brown fox jumps over the lazy dog. " * 8,
    "def f(x):\n    return x ** 2  # squares",
    "Ça coûte 12,50 € à l'hôtel",
    "日本の首都はどこですか",
    "🎉🎉 party",
    "a",
]


@pytest.mark.parametrize(("left", "right", "cosine"), KNOWN)
def test_similarities_are_those_of_the_published_model(
    embedder: OpenVinoEmbedder, reference: OpenVinoEmbedder, left: str, right: str, cosine: float
) -> None:
    exact = reference.embed([left, right])
    assert float(exact[0] @ exact[1]) == pytest.approx(cosine, abs=1e-3)
    small = embedder.embed([left, right])
    assert float(small[0] @ small[1]) == pytest.approx(cosine, abs=2e-2)


def test_int8_is_near_the_float_model(embedder: OpenVinoEmbedder, reference: OpenVinoEmbedder) -> None:
    cosines = np.sum(embedder.embed(TEXTS) * reference.embed(TEXTS), axis=1)
    assert cosines.min() > 0.997
    assert cosines.max() < 0.9999999  # else the small form was not what was tested


def test_vectors_have_length_one(embedder: OpenVinoEmbedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), embedder.dimension) == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_order_and_company_change_nothing(embedder: OpenVinoEmbedder) -> None:
    texts = [f"{text} {word}" for text in TEXTS for word in ("today", "in the long run", "!")]
    together = embedder.embed(texts)
    alone = np.vstack([embedder.embed([text]) for text in texts])
    backwards = embedder.embed(texts[::-1])[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-3)
    np.testing.assert_allclose(together, backwards, atol=1e-3)


def test_quantised_activations_stay_near(reference: OpenVinoEmbedder) -> None:
    fast = OpenVinoEmbedder(EmbedderOptions(quantised_activations=True))
    together = fast.embed(TEXTS)
    alone = np.vstack([fast.embed([text]) for text in TEXTS])
    assert np.sum(together * reference.embed(TEXTS), axis=1).min() > 0.997
    assert np.sum(together * alone, axis=1).min() > 0.9999


def test_long_texts_are_cut_and_say_so(embedder: OpenVinoEmbedder) -> None:
    fits, long = "word " * 254, "word " * 255
    answer = embedder.encode([fits, long, long * 1000, "a" * 2_000_000])
    assert answer.tokens[:3] == (256, 256, 256)
    assert answer.cut == (False, True, True, False)  # one word of two million letters is one unknown token
    np.testing.assert_allclose(answer.vectors[0], answer.vectors[2], atol=1e-3)


def test_nothing_after_the_cut_counts(embedder: OpenVinoEmbedder) -> None:
    first, second = embedder.embed(["word " * 300 + "apples", "word " * 300 + "the sea at night"])
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_empty_texts_and_no_texts(embedder: OpenVinoEmbedder) -> None:
    empty, spaces = embedder.embed(["", "  \n\t "])
    np.testing.assert_allclose(empty, spaces, atol=1e-6)
    assert float(np.linalg.norm(empty)) == pytest.approx(1, abs=1e-5)
    assert embedder.embed([]).shape == (0, 384)


def test_case_and_accents_do_not_count_and_scripts_do(embedder: OpenVinoEmbedder) -> None:
    upper, lower, accent, japanese = embedder.embed(
        ["WHERE IS THE CAFE", "where is the cafe", "where is the café", "東京"]
    )
    assert float(upper @ lower) > 0.9999
    assert float(lower @ accent) > 0.9999
    assert float(lower @ japanese) < 0.5


def test_what_is_no_unicode_is_refused(embedder: OpenVinoEmbedder) -> None:
    with pytest.raises(InvalidArgument, match="text 1 is not Unicode"):
        embedder.encode(["fine", "broken \ud800"])


def test_any_thread_may_call(embedder: OpenVinoEmbedder) -> None:
    expected = embedder.embed(TEXTS)
    wrong: list[str] = []

    def work(place: int) -> None:
        for _ in range(20):
            if not np.allclose(embedder.embed([TEXTS[place]])[0], expected[place], atol=1e-3):
                wrong.append(TEXTS[place])

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(TEXTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_folder_of_the_users_gives_the_same(embedder: OpenVinoEmbedder, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(packaged_model(), folder)
    own = OpenVinoEmbedder(EmbedderOptions(folder=folder, max_tokens=8))
    np.testing.assert_allclose(own.embed(["hello"]), embedder.embed(["hello"]), atol=1e-6)
    assert own.encode(["one two three four five six seven"]).cut == (True,)
    assert own.name == "mine/int8"


def test_damaged_folders_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"has no config\.json, model\.safetensors, tokenizer\.json"):
        OpenVinoEmbedder(EmbedderOptions(folder=tmp_path))
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(packaged_model() / name, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(FailedPrecondition, match=r"model\.safetensors cannot be read"):
        OpenVinoEmbedder(EmbedderOptions(folder=tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "mpnet"}))
    with pytest.raises(FailedPrecondition, match="model_type mpnet"):
        OpenVinoEmbedder(EmbedderOptions(folder=tmp_path))


def test_tokens_alone_give_the_same(embedder: OpenVinoEmbedder) -> None:
    ids = [embedder.tokenize(text).ids for text in TEXTS]
    np.testing.assert_allclose(embedder.compute(ids), embedder.embed(TEXTS), atol=1e-6)
    assert embedder.vocabulary == 30522


def test_a_model_that_takes_the_first_token_is_computed_so(tmp_path: Path) -> None:
    """Of a layerless encoder it is known: the vector of [CLS], whatever follows; the mean would not be."""
    folder = tmp_path / "cls"
    shutil.copytree(packaged_model(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 0}))
    mean = OpenVinoEmbedder(EmbedderOptions(folder=folder))
    assert not np.allclose(*mean.embed(["one", "two"]), atol=1e-3)
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    first = OpenVinoEmbedder(EmbedderOptions(folder=folder))
    np.testing.assert_allclose(*first.embed(["one", "two"]), atol=1e-6)


@pytest.mark.parametrize(
    ("file", "value", "wrong"),
    [
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "the module Dense is not supported"),
        ("modules.json", {}, "is no JSON array"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens is not supported"),
        ("1_Pooling/config.json", {}, "no mode is not supported"),
    ],
)
def test_what_would_give_other_vectors_is_refused(tmp_path: Path, file: str, value: object, wrong: str) -> None:
    folder = tmp_path / "other"
    shutil.copytree(packaged_model(), folder)
    (folder / file).write_text(json.dumps(value))
    with pytest.raises(FailedPrecondition, match=wrong):
        OpenVinoEmbedder(EmbedderOptions(folder=folder))


def test_positions_that_are_relative_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "relative"
    shutil.copytree(packaged_model(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"position_embedding_type": "relative_key"}))
    with pytest.raises(FailedPrecondition, match="positions that are relative_key"):
        OpenVinoEmbedder(EmbedderOptions(folder=folder))


def test_batches_hold_every_text_once_with_little_padding() -> None:
    lengths = [3, 250, 9, 10, 11, 120, 3, 64, 90, 256, 2] * 20
    batches = plan_batches(lengths, 1024)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        longest, shortest = lengths[batch[0]], min(lengths[place] for place in batch)
        assert longest <= shortest * 4 // 3 + 8
        assert longest * len(batch) <= 1024
