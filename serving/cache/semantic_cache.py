"""The semantic cache: lookup in two tiers, keeping, single flight, invalidation, counters.

GPTCache is the frame of the semantic tier: its `Cache` holds our embedder, store and guards, and its `adapt` runs them.
It has no exact tier, embeds a second time to store, and runs in the caller's thread; so the exact tier and `put` go to
the store directly, and `answer` runs all of it on a thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from serving.cache.error_bound import add_observation, generate_probability, observations
from serving.cache.gptcache_frame import Cache, Config, SimilarityEvaluation, adapt
from serving.cache.guards import GUARDS, refusal
from serving.cache.index import Vectors
from serving.cache.scope import Asked, Scope, ScopeRules, refuse_answer, scope_of
from serving.cache.single_flight import LeaderCancelled, SingleFlight
from serving.cache.store import Entry, EntryStore, Searched
from serving.embedding.embedder import Embedder
from serving.errors import InvalidArgument, MeshError

_REFUSED: Final = 0.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """`threshold` is the least cosine of a semantic hit; 1.0 leaves the exact tier alone.

    `error_bound`: the rate of wrong semantic hits that is allowed, learned for each stored answer; None trusts
    threshold and guards. `without_guards` names guards (serving.cache.guards.GUARDS) that are not asked.
    """

    threshold: float = 0.8
    neighbours: int = 8
    without_guards: frozenset[str] = frozenset()
    error_bound: float | None = None
    rules: ScopeRules = field(default_factory=ScopeRules)


@dataclass(frozen=True, slots=True)
class Hit:
    """`answer` is the stored `chat.completion` as JSON; `similarity` 1.0 in the exact tier."""

    tier: Literal["exact", "semantic"]
    similarity: float
    answer: bytes
    entry: Entry


@dataclass(frozen=True, slots=True)
class Miss:
    """`scope` None: the request is never cached, for `reason`. Goes back into `put`."""

    reason: str
    scope: Scope | None = None
    vector: Vectors | None = None
    candidate: tuple[float, Entry] | None = None  # what would have been answered, but for the error bound


@dataclass(slots=True)
class Counters:
    """Since the start. `refused` counts by guard, `not_stored` and `bypassed` by reason."""

    lookups: int = 0
    exact_hits: int = 0
    semantic_hits: int = 0
    misses: int = 0
    stored: int = 0
    followed: int = 0
    explored: int = 0
    failures: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    bypassed: Counter[str] = field(default_factory=Counter)
    not_stored: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, name: str, reason: str = "") -> None:
        with self._lock:
            if reason:
                getattr(self, name)[reason] += 1
            else:
                setattr(self, name, getattr(self, name) + 1)


@dataclass(frozen=True, slots=True)
class _Query:
    scope: Scope
    vector: Vectors


class _Guarded(SimilarityEvaluation):  # type: ignore[misc]
    """GPTCache's evaluation: the cosine, or nothing where a guard refuses."""

    def __init__(self, without: frozenset[str], counters: Counters) -> None:
        self._without = without
        self._counters = counters

    def evaluation(self, src_dict: dict[str, Any], cache_dict: dict[str, Any], **_: Any) -> float:
        refused = refusal(src_dict["question"].scope.text, cache_dict["question"].text, self._without)
        if refused is not None:
            self._counters.add("refused", refused.guard)
            return _REFUSED
        return min(float(cache_dict["search_result"][0]), 1.0)

    def range(self) -> tuple[float, float]:
        return 0.0, 1.0


class SemanticCache:
    """Owns neither the store nor the embedder. `lookup`, `put` and `invalidate` may be called from any thread and block
    for milliseconds; `answer` belongs to one event loop."""

    def __init__(
        self,
        store: EntryStore,
        embedder: Embedder,
        options: CacheOptions | None = None,
        same_answer: Callable[[bytes, bytes], bool] | None = None,
    ) -> None:
        self._options = options or CacheOptions()
        _check(self._options)
        self._store = store
        self._embedder = embedder
        self._same_answer = same_answer or same_text
        self.counters = Counters()
        self._flights: SingleFlight[tuple[Hit | Miss, bytes]] = SingleFlight()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="semantic-cache")
        self._frame = Cache()
        self._frame.init(
            pre_func=lambda data, **_: (data["query"], data["query"]),
            embedding_func=lambda query, **_: Searched(query.scope.digest, query.vector, self._options.threshold),
            data_manager=store,
            similarity_evaluation=_Guarded(self._options.without_guards, self.counters),
            post_func=lambda entries: entries[0],
            config=Config(similarity_threshold=self._options.threshold, disable_report=True),
        )

    def lookup(self, asked: Asked) -> Hit | Miss:
        """The stored answer to the same question, or to one that asks the same.

        A cache that fails is a miss, and is logged.
        """
        return self._lookup(scope_of(asked, self._options.rules))

    def _lookup(self, scope: Scope | str) -> Hit | Miss:
        self.counters.add("lookups")
        if isinstance(scope, str):
            self.counters.add("bypassed", scope.split(":")[0].split("(")[0].strip())
            return Miss(scope)
        try:
            found = self._find(scope)
        except (MeshError, sqlite3.Error) as error:
            self.counters.add("failures")
            _log.warning("lookup in the semantic cache failed", extra={"error": repr(error)})
            return Miss("the cache failed", scope)
        if isinstance(found, Miss):
            self.counters.add("misses")
        return found

    def _find(self, scope: Scope) -> Hit | Miss:
        entry = self._store.find(scope.key)
        if entry is not None:
            self.counters.add("exact_hits")
            self._store.use(entry)
            return Hit("exact", 1.0, entry.answer, entry)
        if self._options.threshold >= 1.0:
            return Miss("not asked before", scope)
        embedded = self._embedder.encode([scope.text])
        if embedded.cut[0]:
            return Miss(f"longer than the {self._embedder.max_tokens} tokens that are compared", scope)
        vector = embedded.vectors[0]
        best = self._nearest(_Query(scope, vector))
        if best is None:
            return Miss("nothing asks the same", scope, vector)
        similarity, entry = best
        if self._must_generate(similarity, entry):
            self.counters.add("explored")
            return Miss("the error bound asks for another answer", scope, vector, best)
        self.counters.add("semantic_hits")
        self._store.use(entry)
        return Hit("semantic", similarity, entry.answer, entry)

    def _nearest(self, query: _Query) -> tuple[float, Entry] | None:
        ranks: list[tuple[Entry, float]] = []
        entry: Entry | None = adapt(
            _nothing, _as_it_is, _nothing,
            cache_obj=self._frame, query=query, search_only=True, top_k=self._options.neighbours,
            hit_callback=ranks.extend,
        )  # fmt: skip
        return None if entry is None else (ranks[0][1], entry)

    def _must_generate(self, similarity: float, entry: Entry) -> bool:
        bound = self._options.error_bound
        if bound is None:
            return False
        return random.random() < generate_probability(observations(entry.learned), similarity, bound)

    def put(self, miss: Miss, answer: Mapping[str, Any], tags: Iterable[str] = (), ttl_s: float | None = None) -> str:
        """Keeps a whole successful `chat.completion`. Answers why not, or nothing when it is kept."""
        reason = miss.reason if miss.scope is None else refuse_answer(answer)
        if not reason and miss.scope is not None:
            body = json.dumps(answer, separators=(",", ":")).encode()
            try:
                self._learn(miss, body)
                if not self._store.put(miss.scope, body, miss.vector, tags, ttl_s):
                    reason = "it is larger than the cache's limits"
            except (MeshError, sqlite3.Error) as error:
                self.counters.add("failures")
                _log.warning("an answer could not be kept", extra={"error": repr(error)})
                reason = "the cache failed"
        if reason:
            self.counters.add("not_stored", reason.split(":")[0])
        else:
            self.counters.add("stored")
        return reason

    def _learn(self, miss: Miss, body: bytes) -> None:
        if miss.candidate is not None:
            similarity, entry = miss.candidate
            current = self._store.entry(entry.id)
            if current is not None:
                right = self._same_answer(current.answer, body)
                self._store.learn(current, add_observation(current.learned, similarity, right))

    async def answer(
        self, asked: Asked, generate: Callable[[], Awaitable[Mapping[str, Any]]], tags: Iterable[str] = ()
    ) -> tuple[Hit | Miss, bytes]:
        """The answer as JSON, from the cache or generated. Equal questions at the same time are generated once.

        Followers get what the leader got. When the leader fails, or its answer may not be kept, each follower generates
        its own; when the leader is cancelled, the next one leads. Raises what `generate` raises.
        """
        scope = scope_of(asked, self._options.rules)
        if isinstance(scope, str):
            return self._lookup(scope), _json(await generate())
        while True:
            with self._flights.enter(scope.key) as turn:
                if turn.leads:
                    led, sharable = await self._lead(scope, generate, tags)
                    turn.share(led if sharable else None)
                    return led
                try:
                    followed = await turn.follow()
                except LeaderCancelled:
                    continue
            if followed is not None:
                self.counters.add("followed")
                return followed
            return Miss("the answer of another request could not be shared", scope), _json(await generate())

    async def _lead(
        self, scope: Scope, generate: Callable[[], Awaitable[Mapping[str, Any]]], tags: Iterable[str]
    ) -> tuple[tuple[Hit | Miss, bytes], bool]:
        """What was found or made, and whether others may have it."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._lookup, scope)
        if isinstance(found, Hit):
            return (found, found.answer), True
        made = await generate()
        await loop.run_in_executor(self._threads, self.put, found, made, tags)
        return (found, _json(made)), not refuse_answer(made)

    def invalidate(
        self, *, tenant: str | None = None, model: str | None = None, asked: Asked | None = None, tag: str | None = None
    ) -> int:
        """Removes all answers that fit what is given: everything when nothing is. `asked` names its whole scope.

        Answers how many. Raises `InvalidArgument` when `asked` is a request that is never cached.
        """
        scope = scope_of(asked, self._options.rules) if asked is not None else None
        if isinstance(scope, str):
            raise InvalidArgument(f"the request has no scope in the cache: {scope}")
        return self._store.remove(tenant=tenant, model=model, scope=scope.digest if scope else None, tag=tag)

    def close(self) -> None:
        """Waits for what runs. The store is closed by whoever opened it."""
        self._threads.shutdown()


def same_text(left: bytes, right: bytes) -> bool:
    """Whether two answers say the same in the same words; case and spaces do not count."""
    first, second = (json.loads(answer)["choices"][0]["message"]["content"] for answer in (left, right))
    return bool(first.casefold().split() == second.casefold().split())


def _check(options: CacheOptions) -> None:
    if not 0 < options.threshold <= 1 or options.neighbours < 1:
        raise InvalidArgument(f"threshold {options.threshold} must be in (0, 1], neighbours at least 1")
    if options.error_bound is not None and not 0 < options.error_bound < 1:
        raise InvalidArgument(f"error_bound {options.error_bound} must be between 0 and 1")
    unknown = options.without_guards - GUARDS.keys()
    if unknown:
        raise InvalidArgument(f"no guard {', '.join(sorted(unknown))}; there are: {', '.join(GUARDS)}")


def _json(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()


def _nothing(*_: Any, **__: Any) -> None:
    """GPTCache wants something to call on a miss."""


def _as_it_is(answer: Any) -> Any:
    return answer
