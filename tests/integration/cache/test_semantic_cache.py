"""The whole core with the real model: tiers, scopes, guards, single flight, invalidation, failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.cache.scope import Asked
from serving.cache.semantic_cache import CacheOptions, Hit, Miss, SemanticCache
from serving.cache.store import EntryStore, Limits
from serving.embedding.openvino_embedder import OpenVinoEmbedder
from serving.errors import Internal, InvalidArgument

FRANCE = "What is the capital of France?"


@pytest.fixture(scope="module")
def embedder() -> OpenVinoEmbedder:
    return OpenVinoEmbedder()


@pytest.fixture
def store(embedder: OpenVinoEmbedder, tmp_path: Path) -> Iterator[EntryStore]:
    store = EntryStore(tmp_path, embedder.dimension, embedder.name, Limits(max_answer_bytes=10_000))
    yield store
    store.close()


@pytest.fixture
def cache(store: EntryStore, embedder: OpenVinoEmbedder) -> Iterator[SemanticCache]:
    cache = SemanticCache(store, embedder)
    yield cache
    cache.close()


def asked(text: str, tenant: str = "t", **body: Any) -> Asked:
    return Asked(tenant, "m", "1", {"messages": [{"role": "user", "content": text}]} | body)


def answer(text: str, finish: str = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}]}


def keep(cache: SemanticCache, text: str, made: str, **more: Any) -> None:
    missed = cache.lookup(asked(text, **more))
    assert isinstance(missed, Miss), missed
    assert cache.put(missed, answer(made)) == ""


def text_of(found: Hit | Miss) -> str:
    assert isinstance(found, Hit), found
    return str(json.loads(found.answer)["choices"][0]["message"]["content"])


def test_the_same_question_hits_exactly_and_a_paraphrase_semantically(cache: SemanticCache) -> None:
    keep(cache, FRANCE, "Paris")
    exact, near = cache.lookup(asked(FRANCE)), cache.lookup(asked("can you tell me the capital of France"))
    assert isinstance(exact, Hit)
    assert isinstance(near, Hit)
    assert (exact.tier, exact.similarity, text_of(exact)) == ("exact", 1.0, "Paris")
    assert (near.tier, text_of(near)) == ("semantic", "Paris")
    assert 0.8 <= near.similarity < 1
    assert (cache.counters.exact_hits, cache.counters.semantic_hits, cache.counters.misses) == (1, 1, 1)


def test_the_nearest_that_passes_the_guards_answers(cache: SemanticCache) -> None:
    for country, capital in (("Germany", "Berlin"), ("Spain", "Madrid"), ("Francia", "?"), ("France", "Paris")):
        keep(cache, f"What is the capital of {country}?", capital)
    assert text_of(cache.lookup(asked("Tell me the capital of Spain"))) == "Madrid"
    assert isinstance(cache.lookup(asked("What is the capital of Portugal?")), Miss)
    assert isinstance(cache.lookup(asked("What is the old capital of France?")), Miss)
    assert cache.counters.refused["content"] >= 1


def test_nothing_crosses_scopes(cache: SemanticCache) -> None:
    keep(cache, FRANCE, "Paris")
    system = [{"role": "system", "content": "Answer in French."}, {"role": "user", "content": FRANCE}]
    for other in (asked(FRANCE, tenant="u"), asked(FRANCE, temperature=0.2), asked(FRANCE, messages=system)):
        assert isinstance(cache.lookup(other), Miss)


def test_only_whole_answers_are_kept(cache: SemanticCache) -> None:
    missed = cache.lookup(asked(FRANCE))
    assert isinstance(missed, Miss)
    assert "ended by" in cache.put(missed, answer("Par", finish="length"))
    assert "larger" in cache.put(missed, answer("x" * 20_000))
    never = cache.lookup(asked(FRANCE, n=2))
    assert isinstance(never, Miss)
    assert "n is not 1" in cache.put(never, answer("Paris"))
    assert isinstance(cache.lookup(asked(FRANCE)), Miss)
    assert cache.counters.stored == 0
    assert sum(cache.counters.not_stored.values()) == 3


def test_texts_that_are_cut_are_compared_exactly_only(cache: SemanticCache) -> None:
    long = "the river and the sea " * 100
    keep(cache, long + "one", "first")
    assert isinstance(cache.lookup(asked(long + "two")), Miss)
    assert text_of(cache.lookup(asked(long + "one"))) == "first"


def test_options_are_checked_and_guards_can_be_left_out(store: EntryStore, embedder: OpenVinoEmbedder) -> None:
    for wrong in (
        CacheOptions(threshold=0),
        CacheOptions(error_bound=1.5),
        CacheOptions(without_guards=frozenset({"x"})),
    ):
        with pytest.raises(InvalidArgument):
            SemanticCache(store, embedder, wrong)
    loose = SemanticCache(store, embedder, CacheOptions(threshold=0.6, without_guards=frozenset({"content", "names"})))
    keep(loose, FRANCE, "Paris")
    assert text_of(loose.lookup(asked("What is the capital of Germany?"))) == "Paris"
    loose.close()
    exact = SemanticCache(store, embedder, CacheOptions(threshold=1.0))
    assert isinstance(exact.lookup(asked("what is the capital of France")), Miss)
    exact.close()


def test_an_error_bound_generates_until_it_has_seen_enough(store: EntryStore, embedder: OpenVinoEmbedder) -> None:
    cache = SemanticCache(store, embedder, CacheOptions(error_bound=0.3))
    keep(cache, FRANCE, "Paris")
    near = asked("Tell me the capital of France")
    for _ in range(6):
        missed = cache.lookup(near)
        assert isinstance(missed, Miss)
        assert missed.candidate is not None
        cache.put(missed, answer("paris "))
        store.remove(key=missed.scope.key if missed.scope else None)
    for text in ("Which is the largest river of Peru?", "How do I cook rice?"):
        assert isinstance(cache.lookup(asked(text)), Miss)
    entry = cache.lookup(asked(FRANCE))
    assert isinstance(entry, Hit)
    assert entry.entry.learned is not None
    assert len(json.loads(entry.entry.learned)) == 6
    assert all(right for _, right in json.loads(entry.entry.learned))
    cache.close()


async def test_fifty_same_questions_cause_one_generation(cache: SemanticCache) -> None:
    calls = 0

    async def generate() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.05)
        return answer("Paris")

    answers = await asyncio.gather(*(cache.answer(asked(FRANCE), generate) for _ in range(50)))
    assert calls == 1
    assert {json.loads(body)["choices"][0]["message"]["content"] for _, body in answers} == {"Paris"}
    assert cache.counters.followed == 49
    found, _ = await cache.answer(asked(FRANCE), generate)
    assert isinstance(found, Hit)
    assert calls == 1


async def test_followers_of_a_failed_or_cut_generation_make_their_own(cache: SemanticCache) -> None:
    calls = 0

    async def generate() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        mine = calls
        await asyncio.sleep(0.02)
        if mine == 1:
            raise Internal("the engine is gone")
        return answer("cut", finish="length")

    tasks = [asyncio.create_task(cache.answer(asked(FRANCE), generate)) for _ in range(5)]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], Internal)
    assert all(isinstance(made, tuple) for made in answers[1:])
    assert calls == 5


async def test_a_cancelled_leader_hands_its_turn_on(cache: SemanticCache) -> None:
    started = asyncio.Event()
    calls = 0

    async def generate() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 1:
            started.set()
            await asyncio.Event().wait()
        return answer("Paris")

    leader = asyncio.create_task(cache.answer(asked(FRANCE), generate))
    await started.wait()
    followers = [asyncio.create_task(cache.answer(asked(FRANCE), generate)) for _ in range(10)]
    await asyncio.sleep(0)
    leader.cancel()
    answers = await asyncio.gather(*followers)
    assert calls == 2
    assert len({body for _, body in answers}) == 1
    assert leader.cancelled()


async def test_invalidation_of_a_scope_and_of_tags(cache: SemanticCache) -> None:
    async def generate() -> dict[str, Any]:
        return answer("Paris")

    await cache.answer(asked(FRANCE), generate, tags=["geo"])
    await cache.answer(asked(FRANCE, tenant="u"), generate)
    assert cache.invalidate(asked=asked("anything")) == 1
    assert cache.invalidate(tag="geo") == 0
    assert cache.invalidate(tenant="u", model="m") == 1
    with pytest.raises(InvalidArgument, match="n is not 1"):
        cache.invalidate(asked=asked("x", n=3))


async def test_a_broken_store_costs_hits_not_answers(cache: SemanticCache, store: EntryStore) -> None:
    async def generate() -> dict[str, Any]:
        return answer("Paris")

    store.close()
    found, body = await cache.answer(asked(FRANCE), generate)
    assert isinstance(found, Miss)
    assert b"Paris" in body
    assert cache.counters.failures == 2
