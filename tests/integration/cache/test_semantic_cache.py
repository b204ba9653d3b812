"""The whole core with the real model: tiers, scopes, guards, single flight, invalidation, failures."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from serving.cache.embedding import cache_embedder
from serving.cache.scope import Asked
from serving.cache.semantic_cache import CacheOptions, Hit, Miss, SemanticCache
from serving.cache.store import EntryStore, Limits
from serving.cache.turns import Follow, Lead, Turns, Wanted
from serving.embedding.embedder import Embeddings
from serving.embedding.openvino_embedder import OpenVinoEmbedder
from serving.errors import Internal, InvalidArgument

FRANCE = "What is the capital of France?"


@pytest.fixture(scope="module")
def embedder() -> OpenVinoEmbedder:
    return cache_embedder()


@pytest.fixture
def store(embedder: OpenVinoEmbedder, tmp_path: Path) -> Iterator[EntryStore]:
    store = EntryStore(tmp_path, embedder.dimension, embedder.name, Limits(max_answer_bytes=10_000))
    yield store
    store.close()


@pytest.fixture
def cache(store: EntryStore, embedder: OpenVinoEmbedder) -> SemanticCache:
    return SemanticCache(store, embedder)


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


def test_a_question_that_is_stored_while_its_vector_is_computed_hits_exactly(
    store: EntryStore, embedder: OpenVinoEmbedder
) -> None:
    class Late:
        """An embedder during whose work another thread stores the answer."""

        dimension, max_tokens, name = embedder.dimension, embedder.max_tokens, embedder.name
        embed = embedder.embed

        def encode(self, texts: Sequence[str]) -> Embeddings:
            keep(other, FRANCE, "Paris")
            return embedder.encode(texts)

    other = SemanticCache(store, embedder)
    found = SemanticCache(store, Late()).lookup(asked(FRANCE))
    assert isinstance(found, Hit)
    assert (found.tier, found.similarity) == ("exact", 1.0)


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
    assert "end by itself" in cache.put(missed, answer("Par", finish="length"))
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
    exact = SemanticCache(store, embedder, CacheOptions(threshold=1.0))
    assert isinstance(exact.lookup(asked("what is the capital of France")), Miss)


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


Generate = Callable[[], Awaitable[dict[str, Any]]]


@pytest.fixture
def turns(cache: SemanticCache) -> Iterator[Turns]:
    turns = Turns(cache)
    yield turns
    turns.close()


async def ask(turns: Turns, question: Asked, generate: Generate, wanted: Wanted | None = None) -> tuple[str, str]:
    """As a gateway does: what came of it, and the answer's text."""
    while True:
        found = await turns.enter(question, wanted)
        if isinstance(found, Hit):
            return found.tier, text_of(found)
        if isinstance(found, Follow):
            if await found.ended():
                continue
            return "own", said(await generate())
        if isinstance(found, Miss):
            return "own", said(await generate())
        try:
            made = await generate()
            await found.settle(made)
            return "led", said(made)
        finally:
            found.give_up()


def said(made: dict[str, Any]) -> str:
    return str(made["choices"][0]["message"]["content"])


async def test_fifty_same_questions_cause_one_generation(cache: SemanticCache, turns: Turns) -> None:
    calls = 0

    async def generate() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.05)
        return answer("Paris")

    answers = await asyncio.gather(*(ask(turns, asked(FRANCE), generate) for _ in range(50)))
    assert calls == 1
    assert sorted(answers) == [("exact", "Paris")] * 49 + [("led", "Paris")]
    assert cache.counters.followed == 49
    assert turns.generating == 0


async def test_followers_of_an_answer_that_is_not_kept_make_their_own(turns: Turns) -> None:
    calls = 0

    async def generate() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.02)
        return answer("cut", finish="length")

    answers = await asyncio.gather(*(ask(turns, asked(FRANCE), generate) for _ in range(5)))
    assert sorted(answers) == [("led", "cut")] + [("own", "cut")] * 4
    assert calls == 5


async def test_a_leader_that_is_cancelled_or_fails_hands_its_turn_on(turns: Turns) -> None:
    started = asyncio.Event()
    calls = 0

    async def generate() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 1:
            started.set()
            await asyncio.Event().wait()
        if calls == 2:
            raise Internal("the engine is gone")
        return answer("Paris")

    leader = asyncio.create_task(ask(turns, asked(FRANCE), generate))
    await started.wait()
    followers = [asyncio.create_task(ask(turns, asked(FRANCE), generate)) for _ in range(10)]
    await asyncio.sleep(0)
    leader.cancel()
    answers = await asyncio.gather(*followers, return_exceptions=True)
    assert calls == 3
    assert sum(isinstance(made, Internal) for made in answers) == 1
    assert sum(made == ("exact", "Paris") for made in answers) == 8
    assert leader.cancelled()


async def test_fresh_old_and_unmeasured_answers(store: EntryStore, cache: SemanticCache) -> None:
    made: list[str] = []
    turns = Turns(cache, clock=lambda: time.time() + 100)

    async def generate() -> dict[str, Any]:
        made.append(f"answer {len(made)}")
        return answer(made[-1])

    async def again(**wanted: Any) -> tuple[str, str]:
        return await ask(turns, asked(FRANCE), generate, Wanted(**wanted))

    assert await again(stored_only=True) == ("own", "answer 0")
    assert store.count == 0
    assert await again() == ("led", "answer 1")
    assert await again(fresh=True) == ("led", "answer 2")
    assert await again(max_age_s=1000) == ("exact", "answer 2")
    assert await again(max_age_s=50) == ("led", "answer 3")
    assert await again(usage=True) == ("led", "answer 4")
    assert await again(stored_only=True) == ("exact", "answer 4")
    near = await ask(turns, asked("can you tell me the capital of France"), generate)
    assert near == ("semantic", "answer 4")
    assert store.count == 1
    turns.close()


@pytest.mark.parametrize("removed", [{}, {"tenant": "t"}, {"model": "m"}, {"tag": "geo"}], ids=str)
async def test_what_is_generated_while_its_like_is_removed_is_not_kept(
    cache: SemanticCache, turns: Turns, removed: dict[str, Any]
) -> None:
    """And nobody who asks afterwards gets it from the one who generates."""
    before = await turns.enter(asked(FRANCE))
    same = await turns.enter(asked(FRANCE))
    assert isinstance(before, Lead)
    assert isinstance(same, Follow)
    cache.invalidate(**removed)
    after = await turns.enter(asked(FRANCE))
    assert isinstance(after, Lead)
    assert "invalidated" in await before.settle(answer("old"), ["geo"])
    assert not await same.ended()
    assert await after.settle(answer("new"), ["geo"]) == ""
    assert text_of(cache.lookup(asked(FRANCE))) == "new"


async def test_a_removal_of_other_answers_disturbs_no_generation(cache: SemanticCache, turns: Turns) -> None:
    lead = await turns.enter(asked(FRANCE))
    assert isinstance(lead, Lead)
    for other in ({"tenant": "u"}, {"model": "n"}, {"tag": "news"}, {"scope": bytes(32)}, {"entry": bytes(32)}):
        cache.invalidate(**other)
    assert await lead.settle(answer("Paris"), ["geo"]) == ""
    late = await turns.enter(asked("Who wrote Hamlet?"))
    assert isinstance(late, Lead)
    for _ in range(1001):  # more than it remembers
        cache.invalidate(tenant="u")
    assert "invalidated" in await late.settle(answer("Shakespeare"))


def test_invalidation_by_scope_entry_tenant_and_tag(cache: SemanticCache) -> None:
    for tenant, text in (("t", FRANCE), ("t", "Who wrote Hamlet?"), ("u", FRANCE)):
        keep(cache, text, "answer", tenant=tenant)
    hit = cache.lookup(asked(FRANCE))
    assert isinstance(hit, Hit)
    assert cache.invalidate(tag="geo") == 0
    assert cache.invalidate(entry=hit.entry.key, tenant="u") == 0
    assert cache.invalidate(entry=hit.entry.key) == 1
    assert cache.invalidate(scope=hit.entry.scope) == 1
    assert cache.invalidate(tenant="u", model="m") == 1


async def test_a_broken_store_costs_hits_not_answers(cache: SemanticCache, turns: Turns, store: EntryStore) -> None:
    async def generate() -> dict[str, Any]:
        return answer("Paris")

    store.close()
    assert await ask(turns, asked(FRANCE), generate) == ("led", "Paris")
    assert cache.counters.failures == 2
