"""What decides where a prompt goes: the tokens that replicas have to compute, the prompts that they know, sessions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from serving.gateway.catalog import ModelKey, Offer
from serving.gateway.demand import Demand, answer_limit, choices_of, prompt_text, session_of
from serving.gateway.pools import Pool, Wanted, make_pool
from serving.gateway.prefixes import Prefixes
from serving.gateway.sessions import Sessions, session_digest
from serving.gateway.sizes import Sizes
from serving.gateway.work import Work
from serving.routing.llm_routing import LEAST_TOKENS, PREFIX

if TYPE_CHECKING:
    from serving.gateway.upstreams import Upstream

EMBEDDINGS: Final = "/v1/embeddings"
DEFAULT_INDEX_BYTES: Final = 64 << 20
NO_DEMAND: Final = Demand()
WHYS: Final = ("session", "prefix", "load")  # why a request goes where it does


def size_of(path: str, body: Mapping[str, Any]) -> Demand:
    """What limits have to know of a request of which nobody knows yet who answers it."""
    if path == EMBEDDINGS:
        return Demand(answer_tokens=0)
    return Demand(answer_tokens=answer_limit(path, body), choices=choices_of(path, body))


class Balance:
    """Of one gateway: others have their own, and find the same replica for a new session. Belongs to one event loop."""

    def __init__(self, index_bytes: int = DEFAULT_INDEX_BYTES) -> None:
        """Raises `FailedPrecondition` when the C++ part was not built."""
        self._prefixes = Prefixes(index_bytes)
        self._sessions = Sessions()
        self._sizes: dict[ModelKey, Sizes] = {}
        self._numbers = count()
        self.routed: Callable[[str], None] = lambda _: None  # hears why each request went where it did

    @property
    def index_bytes(self) -> int:
        """Memory of the index of prompts."""
        return self._prefixes.bytes

    def new_number(self) -> int:
        """Of a replica that was not known before; never used again."""
        return next(self._numbers)

    def forget(self, upstream: Upstream) -> None:
        self._prefixes.forget(upstream.number)

    def retain(self, models: Collection[ModelKey]) -> None:
        """Those that there are; what was learned of others is forgotten."""
        self._sizes = {model: self._sizes.get(model) or Sizes() for model in models}

    def demand(self, offer: Offer, path: str, body: Mapping[str, Any], session_header: str) -> Demand:
        """What a request asks of a replica. May be called from any thread: of a long prompt it takes its time."""
        text = prompt_text(path, body)
        keeps = offer.routing.choice == PREFIX and path != EMBEDDINGS
        size = size_of(path, body)
        return Demand(
            len(text),
            size.answer_tokens,
            size.choices,
            session=session_of(body, session_header, offer.routing.session_keys),
            chain=self._prefixes.chain(offer.key, text) if keeps else None,
        )

    def pool(self, offer: Offer, replicas: Sequence[Upstream], chance: Callable[[], float]) -> Pool:
        return make_pool(offer.routing, replicas, chance, self._sessions)

    def wanted(self, offer: Offer, demand: Demand) -> Wanted:
        """The request as the choice sees it."""
        sizes = self._of(offer.key)
        tokens, session = sizes.prompt_tokens(demand.prompt_bytes), _digest(offer, demand)
        if not demand.chain:
            return Wanted(tokens, session=session)
        known = {number: sizes.prompt_tokens(size) for number, size in self._prefixes.known_bytes(demand.chain).items()}
        return Wanted(tokens, known, self._prefixes.held, session)

    def work(self, upstream: Upstream, offer: Offer, demand: Demand, wanted: Wanted | None = None) -> Work:
        """To be entered as long as the request runs there. `wanted`, where it is known already."""
        wanted = wanted or self.wanted(offer, demand)
        known = wanted.known.get(upstream.number, 0.0)
        if offer.routing.choice in (PREFIX, LEAST_TOKENS):
            stays = bool(wanted.session) and self._sessions.replica(wanted.session) == upstream.number
            self.routed("session" if stays else "prefix" if known else "load")
            if wanted.session:
                self._sessions.keep(wanted.session, upstream.number)
        return Work(
            upstream,
            demand,
            self._of(offer.key),
            self._prefixes,
            known=known,
            answer_weight=offer.routing.answer_weight,
        )

    def _of(self, model: ModelKey) -> Sizes:
        return self._sizes.get(model) or Sizes()


def _digest(offer: Offer, demand: Demand) -> bytes:
    return session_digest(str(offer.key), demand.session) if demand.session else b""
