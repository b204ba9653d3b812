"""The semantic cache: lookup in two tiers, keeping, invalidation, counters.

GPTCache is the frame of the semantic tier: its `Cache` holds our embedder, store and guards, and its `adapt` runs them.
It has no exact tier, embeds a second time to store, and runs in the caller's thread; so the exact tier and `put` go to
the store directly, and `serving.cache.turns` runs all of it on threads.
"""

from __future__ import annotations

import json
import logging
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from serving.cache.error_bound import add_observation, generate_probability, observations
from serving.cache.gptcache_frame import Cache, Config, SimilarityEvaluation, adapt
from serving.cache.guards import GUARDS, refusal
from serving.cache.index import Vectors
from serving.cache.scope import Asked, Scope, ScopeRules, refuse_answer, scope_of
from serving.cache.store import Entry, EntryStore, Searched
from serving.embedding.embedder import Embedder
from serving.errors import Conflict, InvalidArgument, MeshError

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
    """`scope` None: the request is never cached, for `reason`. Goes back into `put`.

    `moment`: the store's, when it was asked. `compared` False: nobody has made the text's vector yet.
    """

    reason: str
    scope: Scope | None = None
    vector: Vectors | None = None
    moment: int = 0
    compared: bool = True
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

    def reasons(self, name: str) -> dict[str, int]:
        """A copy of `refused`, `bypassed` or `not_stored`."""
        with self._lock:
            return dict(getattr(self, name))


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
    """Owns neither the store nor the embedder. All of it may be called from any thread, and blocks for milliseconds."""

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
        self._frame = Cache()
        self._frame.init(
            pre_func=lambda data, **_: (data["query"], data["query"]),
            embedding_func=lambda query, **_: Searched(query.scope.digest, query.vector, self._options.threshold),
            data_manager=store,
            similarity_evaluation=_Guarded(self._options.without_guards, self.counters),
            post_func=lambda entries: entries[0],
            config=Config(similarity_threshold=self._options.threshold, disable_report=True),
        )

    @property
    def moment(self) -> int:
        """Counts invalidations."""
        return self._store.moment

    def scope(self, asked: Asked) -> Scope | str:
        """The scope of a request, or why it is never cached."""
        return scope_of(asked, self._options.rules)

    def lookup(self, asked: Asked) -> Hit | Miss:
        """The stored answer to the same question, or to one that asks the same.

        A cache that fails is a miss, and is logged.
        """
        scope = self.scope(asked)
        return self.bypass(scope) if isinstance(scope, str) else self.find(scope)

    def bypass(self, reason: str) -> Miss:
        """Of a request that is never cached."""
        self.counters.add("lookups")
        self.counters.add("bypassed", reason.split(":")[0])
        return Miss(reason)

    def hit_at_once(self, scope: Scope, fits: Callable[[Entry], bool]) -> Hit | None:
        """The exact tier, if that needs no waiting: to be asked on an event loop, before `find` on a thread."""
        try:
            entry = self._store.hit_at_once(scope.key, fits)
        except sqlite3.Error:
            return None  # `find` meets it again, and says so
        if entry is None:
            return None
        self.counters.add("lookups")
        self.counters.add("exact_hits")
        return Hit("exact", 1.0, entry.answer, entry)

    def find(self, scope: Scope) -> Hit | Miss:
        """As `lookup`."""
        self.counters.add("lookups")
        moment = self._store.moment
        try:
            found = self._find(scope, moment)
        except (MeshError, sqlite3.Error) as error:
            self.counters.add("failures")
            _log.warning("lookup in the semantic cache failed", extra={"error": repr(error)})
            return Miss("the cache failed", scope, moment=moment)
        if isinstance(found, Miss):
            self.counters.add("misses")
        return found

    def _find(self, scope: Scope, moment: int) -> Hit | Miss:
        entry = self._store.find(scope.key)
        if entry is not None:
            return self._hit(scope, 1.0, entry)
        vector = self._vector(scope)
        if vector is None:
            return Miss("not asked before, and not compared", scope, moment=moment)
        best = self._nearest(_Query(scope, vector))
        if best is None:
            return Miss("nothing asks the same", scope, vector, moment)
        similarity, entry = best
        if self._must_generate(similarity, entry):
            self.counters.add("explored")
            return Miss("the error bound asks for another answer", scope, vector, moment, candidate=best)
        return self._hit(scope, similarity, entry)

    def _hit(self, scope: Scope, similarity: float, entry: Entry) -> Hit:
        """The nearest may be the same question: one that was stored while this one's vector was computed."""
        self._store.use(entry)
        if entry.key == scope.key:
            self.counters.add("exact_hits")
            return Hit("exact", 1.0, entry.answer, entry)
        self.counters.add("semantic_hits")
        return Hit("semantic", similarity, entry.answer, entry)

    def _vector(self, scope: Scope) -> Vectors | None:
        """None for a text that is too long to be compared, or where nothing is."""
        if self._options.threshold >= 1.0:
            return None
        embedded = self._embedder.encode([scope.text])
        return None if embedded.cut[0] else embedded.vectors[0]

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

    def put(self, miss: Miss, answer: Mapping[str, Any], tags: Collection[str] = (), ttl_s: float | None = None) -> str:
        """Keeps a whole successful `chat.completion`. Answers why not, or nothing when it is kept."""
        reason = miss.reason if miss.scope is None else refuse_answer(answer)
        if not reason and miss.scope is not None:
            try:
                reason = self._keep(miss, miss.scope, answer, tags, ttl_s)
            except (MeshError, sqlite3.Error) as error:
                self.counters.add("failures")
                _log.warning("an answer could not be kept", extra={"error": repr(error)})
                reason = "the cache failed"
        if reason:
            self.not_kept(reason)
        else:
            self.counters.add("stored")
        return reason

    def not_kept(self, reason: str) -> None:
        """Of an answer that nobody brings to `put`."""
        self.counters.add("not_stored", reason.split(":")[0])

    def _keep(
        self, miss: Miss, scope: Scope, answer: Mapping[str, Any], tags: Collection[str], ttl_s: float | None
    ) -> str:
        body = json.dumps(answer, separators=(",", ":")).encode()
        self._learn(miss, body)
        vector = miss.vector if miss.compared else self._vector(scope)
        try:
            kept = self._store.put(scope, body, vector, tags, ttl_s, since=miss.moment)
        except Conflict:
            return "it was invalidated while it was generated"
        return "" if kept else "it is larger than the cache's limits"

    def _learn(self, miss: Miss, body: bytes) -> None:
        if miss.candidate is not None:
            similarity, entry = miss.candidate
            current = self._store.entry(entry.id)
            if current is not None:
                right = self._same_answer(current.answer, body)
                self._store.learn(current, add_observation(current.learned, similarity, right))

    def invalidate(
        self,
        *,
        tenant: str | None = None,
        model: str | None = None,
        scope: bytes | None = None,
        entry: bytes | None = None,
        tag: str | None = None,
    ) -> int:
        """Removes all answers that fit what is given: everything when nothing is. Answers how many.

        `scope` is a `Scope.digest`, `entry` a `Scope.key`. Answers that are generated meanwhile are not kept.
        """
        return self._store.remove(tenant=tenant, model=model, scope=scope, tag=tag, key=entry)


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


def _nothing(*_: Any, **__: Any) -> None:
    """GPTCache wants something to call on a miss."""


def _as_it_is(answer: Any) -> Any:
    return answer
