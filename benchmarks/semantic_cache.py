"""The semantic cache's core: what it answers of labelled pairs, and how long lookups take with 100,000 entries."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.results import keep_results
from benchmarks.semantic_pairs import SAME, Label, Pair, all_pairs
from serving.cache.embedding import cache_embedder
from serving.cache.guards import GUARDS
from serving.cache.index import Vectors
from serving.cache.scope import Asked, Scope, scope_of
from serving.cache.semantic_cache import CacheOptions, Hit, SemanticCache
from serving.cache.store import EntryStore, Limits
from serving.embedding.embedder import Embedder, Embeddings
from serving.embedding.openvino_embedder import OpenVinoEmbedder
from serving.errors import Internal

Tell = Callable[[str], None]
ENTRIES: Final = 100_000
_QUICK_ENTRIES: Final = 5_000
_LOOKUPS: Final = 500
_NOISE: Final = 0.9  # of made-up neighbours: cosines around 0.74, as those of questions about one subject
_LABELS: Final[tuple[Label, ...]] = ("paraphrase", "near miss", "unrelated")
_ALL_GUARDS: Final = frozenset(GUARDS)
_SETTINGS: Final = {
    "as shipped (0.80, all guards)": CacheOptions(),
    "0.80, without `content`": CacheOptions(without_guards=frozenset({"content"})),
    "0.80, no guards": CacheOptions(without_guards=_ALL_GUARDS),
    "0.95, no guards": CacheOptions(threshold=0.95, without_guards=_ALL_GUARDS),
}


def run(quick: bool, tell: Tell) -> str:
    tell("loading the embedding model")
    embedder = cache_embedder()
    with tempfile.TemporaryDirectory() as folder:
        answers, kinds = answered(Path(folder) / "pairs", _Remembering(embedder), tell)
        times = lookup_times(Path(folder) / "many", embedder, _QUICK_ENTRIES if quick else ENTRIES, tell)
    if not quick:
        keep_results("semantic_cache", [*answers, *times])
    return "\n\n".join([table(answers), _line(kinds), table(times)])


class _Remembering:
    """An embedder that computes each text once: four settings ask for the same ones."""

    def __init__(self, embedder: Embedder) -> None:
        self.dimension = embedder.dimension
        self.max_tokens = embedder.max_tokens
        self.name = embedder.name
        self._encode = functools.lru_cache(maxsize=None)(lambda text: embedder.encode([text]))

    def encode(self, texts: Sequence[str]) -> Embeddings:
        parts = [self._encode(text) for text in texts]
        vectors = np.vstack([part.vectors for part in parts])
        return Embeddings(vectors, tuple(part.tokens[0] for part in parts), tuple(part.cut[0] for part in parts))

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self.encode(texts).vectors


def answered(folder: Path, embedder: Embedder, tell: Tell) -> tuple[list[dict[str, Any]], Counter[str]]:
    """For each setting the share of pairs whose left question answers the right one; wrong hits at the default by kind.

    Every pair has a tenant of its own, so that nothing but its left question can answer.
    """
    pairs = all_pairs()
    rows: list[dict[str, Any]] = []
    wrong: Counter[str] = Counter()
    for number, (setting, options) in enumerate(_SETTINGS.items()):
        tell(f"{len(pairs)} pairs: {setting}")
        store = EntryStore(folder / str(number), embedder.dimension, embedder.name)
        cache = SemanticCache(store, embedder, options)
        hits = [(pair, _hits(cache, pair, str(place))) for place, pair in enumerate(pairs)]
        store.close()
        if not number:
            wrong.update(pair.kind for pair, hit in hits if hit and pair.label != "paraphrase")
        rows.append({"setting": setting} | {label: _share(hits, label) for label in _LABELS})
    return rows, wrong


def _hits(cache: SemanticCache, pair: Pair, tenant: str) -> bool:
    stored = cache.lookup(_asked(pair.left, tenant))
    if isinstance(stored, Hit) or cache.put(stored, _answer("stored")):
        raise Internal(f"the left question of a pair could not be stored: {pair.left}")
    found = cache.lookup(_asked(pair.right, tenant))
    return isinstance(found, Hit)


def _share(hits: Sequence[tuple[Pair, bool]], label: Label) -> str:
    of_label = [hit for pair, hit in hits if pair.label == label]
    return f"{sum(of_label)} of {len(of_label)} ({100 * sum(of_label) / len(of_label):.1f} %)"


def lookup_times(folder: Path, embedder: OpenVinoEmbedder, entries: int, tell: Tell) -> list[dict[str, Any]]:
    """One thread, one lookup after the other, in one scope of so many entries."""
    store = EntryStore(folder, embedder.dimension, embedder.name, Limits(max_entries=entries + 1000))
    questions = all_questions()
    tell(f"filling the cache with {entries} entries")
    filled = fill(store, embedder, entries, scope_text, b'{"choices":[{"message":{"content":"' + b"x" * 800 + b'"}}]}')
    cache = SemanticCache(store, embedder)
    exact = _times(cache, questions, "exact")
    semantic = _times(cache, [f"Please tell me: {question}" for question in questions], "")
    writes = [_put(cache, number) for number in range(200)]
    rows = [
        {"step": "exact hit", **percentiles(exact)},
        {"step": "semantic lookup, embedding included", **percentiles(semantic)},
        {"step": "lookup that misses, and put", **percentiles(writes)},
    ]
    store.close()
    started = time.perf_counter()
    EntryStore(folder, embedder.dimension, embedder.name, Limits(max_entries=entries + 1000)).close()
    tell(
        f"{entries} entries: filled in {filled:.0f} s, opened and closed again in {time.perf_counter() - started:.1f} s"
    )
    return rows


def all_questions() -> list[str]:
    return [form.format(x=x) for forms, fillers in SAME.values() for form in forms for x in fillers]


def fill(
    store: EntryStore, embedder: OpenVinoEmbedder, entries: int, scope: Callable[[str], Scope], body: bytes
) -> float:
    """The questions, and made-up neighbours of them up to the wanted number. Answers the seconds that puts took."""
    questions = all_questions()
    vectors = embedder.embed(questions)
    noise = np.random.default_rng(5)
    started = time.perf_counter()
    for number in range(entries):
        place = number % len(questions)
        made_up = number >= len(questions)
        text = f"{questions[place]} ({number})" if made_up else questions[place]
        vector = _near(vectors[place], noise) if made_up else vectors[place]
        store.put(scope(text), body, vector)
    return time.perf_counter() - started


def _near(vector: Vectors, noise: np.random.Generator) -> Vectors:
    away = noise.standard_normal(len(vector)).astype(np.float32)
    moved: Vectors = vector + _NOISE * away / np.linalg.norm(away)
    return (moved / np.linalg.norm(moved)).astype(np.float32)


def _times(cache: SemanticCache, questions: Sequence[str], tier: str) -> list[float]:
    times = []
    for number in range(_LOOKUPS):
        asked = _asked(questions[number * 7 % len(questions)], "bench")
        started = time.perf_counter()
        found = cache.lookup(asked)
        times.append(time.perf_counter() - started)
        if tier and not (isinstance(found, Hit) and found.tier == tier):
            raise Internal(f"expected an {tier} hit for {asked.body}")
    return times


def _put(cache: SemanticCache, number: int) -> float:
    started = time.perf_counter()
    missed = cache.lookup(_asked(f"What is written on page {number} of the book about rivers?", "bench"))
    if not isinstance(missed, Hit):
        cache.put(missed, _answer("words " * 100))
    return time.perf_counter() - started


def percentiles(times: Sequence[float]) -> dict[str, str]:
    cut = statistics.quantiles(times, n=100)
    return {"p50 ms": f"{cut[49] * 1e3:.2f}", "p99 ms": f"{cut[98] * 1e3:.2f}"}


def _asked(text: str, tenant: str) -> Asked:
    return Asked(tenant, "model", "1", {"messages": [{"role": "user", "content": text}]})


def scope_text(text: str) -> Scope:
    return scope_known(_asked(text, "bench"))


def scope_known(asked: Asked) -> Scope:
    scope = scope_of(asked)
    if isinstance(scope, str):
        raise Internal(f"a question of the benchmark has no scope: {scope}")
    return scope


def _answer(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}


def _line(wrong: Counter[str]) -> str:
    return f"Wrong hits as shipped: {dict(wrong) or 'none'}."


def table(rows: Sequence[dict[str, Any]]) -> str:
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(str(row[name]) for name in head) + " |" for row in rows)])
