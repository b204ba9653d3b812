"""One request on one replica: the tokens that it is for as long as it runs, and what its answer teaches."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final

from serving.gateway.demand import Demand
from serving.gateway.prefixes import Prefixes
from serving.gateway.sizes import AnswerMeter, Sizes
from serving.openai.tokens_headers import CACHED_TOKENS, PROMPT_TOKENS

if TYPE_CHECKING:
    from serving.gateway.upstreams import Upstream

_LEARN_TRUST: Final = 1 / 8
_NO_CACHE: Final = -1  # as `LoadHints.prefix_cache_tokens`
_EVENTS: Final = "text/event-stream"


class Work:
    """A context manager. A prompt that the replica has not begun to answer by its end was not computed there."""

    def __init__(
        self,
        upstream: Upstream,
        demand: Demand,
        sizes: Sizes,
        prefixes: Prefixes,
        *,
        known: float,
        answer_weight: float,
    ) -> None:
        """`known`: tokens of the prompt that the replica should have computed before."""
        self.upstream = upstream
        self.meter = AnswerMeter()
        self.whole = False  # set when all of one answer has passed: a part teaches nothing of lengths
        self._demand = demand
        self._sizes = sizes
        self._prefixes = prefixes
        self._known = known
        self._prompt = max(0.0, sizes.prompt_tokens(demand.prompt_bytes) - known * upstream.trust)
        limit = demand.answer_tokens
        each = sizes.answer_tokens if limit is None else min(float(limit), sizes.answer_tokens)
        self._answer = each * demand.choices * answer_weight
        self._blocks_before: int | None = None  # None: nothing was noted
        self._answered = False

    def __enter__(self) -> Work:
        upstream, chain = self.upstream, self._demand.chain
        upstream.in_flight += 1
        upstream.outstanding_tokens += self._prompt + self._answer
        cache = upstream.endpoint.load.prefix_cache_tokens
        if chain is not None and len(chain) and cache != _NO_CACHE:
            room = cache * self._sizes.bytes_per_token if cache > 0 else None
            self._blocks_before = self._prefixes.sent(chain, upstream.number, room)
        return self

    def answered(self, headers: Mapping[str, str]) -> None:
        """The replica has begun a good answer, so its prompt is computed. `headers` may tell what of it was known."""
        upstream, demand = self.upstream, self._demand
        self._answered = True
        self._settle(self._prompt)
        self._prompt = 0.0
        self.meter.streamed = headers.get("content-type", "").startswith(_EVENTS)
        prompt, cached = _number(headers, PROMPT_TOKENS), _number(headers, CACHED_TOKENS)
        if prompt is not None and demand.chain is not None:
            self._sizes.learn_prompt(demand.prompt_bytes, prompt)
        if cached is not None and self._known > 0:
            upstream.trust += _LEARN_TRUST * (min(1.0, cached / self._known) - upstream.trust)

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.upstream.in_flight -= 1
        self._settle(self._prompt + self._answer)
        if self.whole and error is None and self._demand.answer_tokens != 0:
            self._sizes.learn_answer(self.meter.tokens(self._sizes.bytes_per_token) / self._demand.choices)
        if not self._answered and self._blocks_before is not None and self._demand.chain is not None:
            self._prefixes.take_back(self._demand.chain, self.upstream.number, self._blocks_before)

    def _settle(self, tokens: float) -> None:
        upstream = self.upstream
        upstream.outstanding_tokens = max(0.0, upstream.outstanding_tokens - tokens) if upstream.in_flight else 0.0


def _number(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
