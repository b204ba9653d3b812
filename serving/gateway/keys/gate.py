"""The gate before a gateway's models: a key's holder, permissions and limits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from serving._proto import records_pb2 as pb
from serving.access.api_key import is_secret, read_key
from serving.access.directory import KeyDirectory
from serving.access.ledger import Ledger, LimitReached
from serving.access.meter import Meter
from serving.access.windows import REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE
from serving.errors import Unavailable
from serving.gateway.catalog import ModelKey
from serving.gateway.keys.refusals import InvalidApiKey, LimitRefusal, ModelNotAllowed, refusal_of
from serving.gateway.keys.usage import UsageReader
from serving.observe import get_logger
from serving.wire import Wire

_LOG: Final = get_logger(__name__)
_SCHEME: Final = b"bearer "
_TENANTS: Final = 1000  # that have metrics of their own
_OTHER: Final = "other"
_HINT: Final = "send `authorization: Bearer mesh_...`; `mesh keys create` makes one"
_RATE_HEADERS: Final = {REQUESTS_PER_MINUTE: "requests", TOKENS_PER_MINUTE: "tokens"}


class GateInstruments:
    """Prometheus metrics by tenant; beyond a thousand tenants the others count as one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tenants: set[str] = set()
        self.requests = Counter("mesh_gateway_tenant_requests", "Admitted.", ["tenant"], registry=registry)
        self.tokens = Counter("mesh_gateway_tenant_tokens", "Tokens that answers cost.", ["tenant"], registry=registry)
        self.refused = Counter(
            "mesh_gateway_tenant_refused", "Requests refused by limits.", ["tenant", "limit"], registry=registry
        )
        self.unknown = Counter("mesh_gateway_unauthenticated", "Requests without a valid key.", registry=registry)

    def label(self, tenant: str) -> str:
        if tenant not in self._tenants:
            if len(self._tenants) >= _TENANTS:
                return _OTHER
            self._tenants.add(tenant)
        return tenant


class Gate:
    """Belongs to one event loop. `directory` and `ledger` are its owner's to start and close."""

    def __init__(
        self,
        directory: KeyDirectory,
        ledger: Ledger,
        registry: CollectorRegistry,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._ledger = ledger
        self._instruments = GateInstruments(registry)
        self._now = now

    def holder(self, headers: Iterable[tuple[bytes, bytes]]) -> pb.ApiKey:
        """Whose key a request carries. Raises `InvalidApiKey`, or `Unavailable` while no key is known."""
        sent = [value for name, value in headers if name == b"authorization"]
        if len(sent) != 1:
            problem = "no API key was sent" if not sent else "several API keys were sent"
            raise self._unknown(f"{problem}: {_HINT}")
        scheme, text = sent[0][: len(_SCHEME)].lower(), sent[0][len(_SCHEME) :].strip()
        key = read_key(text) if scheme == _SCHEME else None
        if key is None:
            raise self._unknown(f"this is no API key of this mesh: {_HINT}")
        if not self._directory.synced:
            raise Unavailable("the API keys are not known yet: etcd has not answered since this process started")
        found = self._directory.get(key.id)
        if found is None or not is_secret(key.secret, found.secret_sha256):
            raise self._unknown("this API key is not known")
        if found.disabled:
            raise self._unknown("this API key is disabled")
        if found.HasField("expires_at") and found.expires_at.ToNanoseconds() / 1e9 <= self._now():
            raise self._unknown("this API key has expired")
        return found

    def _unknown(self, text: str) -> InvalidApiKey:
        self._instruments.unknown.inc()
        return InvalidApiKey(text)

    @staticmethod
    def may_ask(key: pb.ApiKey, model: ModelKey) -> bool:
        """By namespace, and by the model's name, `application/model` or full name."""
        if key.namespaces and model.namespace not in key.namespaces:
            return False
        names = (model.model, f"{model.application}/{model.model}", str(model))
        return not key.models or any(fnmatchcase(name, pattern) for pattern in key.models for name in names)

    def check(self, key: pb.ApiKey, model: ModelKey) -> None:
        """Raises `ModelNotAllowed`."""
        if not self.may_ask(key, model):
            raise ModelNotAllowed(model.model)

    @asynccontextmanager
    async def admitted(
        self, key: pb.ApiKey, wire: Wire, *, prompt_tokens: int, answer_tokens: int
    ) -> AsyncIterator[UsageReader]:
        """A request's places in all limits of its key for as long as it is entered; then what it cost is counted.

        The answer gets the headers of limits. Raises `LimitRefusal`.
        """
        current = self._directory.get(key.id)
        if current is None or current.disabled:  # since its request began to arrive
            raise self._unknown("this API key is not known any more")
        key = current
        usage = UsageReader(prompt_tokens)
        tenant = self._instruments.label(key.tenant)
        if not key.limits.ListFields():
            self._instruments.requests.labels(tenant).inc()
            try:
                with usage.until_gone():
                    yield usage
            finally:
                self._instruments.tokens.labels(tenant).inc(usage.tokens)
            return
        meter = self._ledger.meter(key)
        try:
            reservation = await self._ledger.reserve(meter, prompt_tokens + answer_tokens)
        except LimitReached as error:
            raise self._refused(key, tenant, meter, wire, error) from error
        self._instruments.requests.labels(tenant).inc()
        try:
            self._say_limits(meter, wire)
            with usage.until_gone():
                yield usage
        finally:
            self._ledger.settle(meter, reservation, usage.tokens)
            self._instruments.tokens.labels(tenant).inc(usage.tokens)

    def _refused(self, key: pb.ApiKey, tenant: str, meter: Meter, wire: Wire, error: LimitReached) -> LimitRefusal:
        refusal = refusal_of(error, self._now())
        self._instruments.refused.labels(tenant, error.counter.name).inc()
        _LOG.info("limit reached", key_id=key.id, tenant=key.tenant, limit=error.counter.name)
        self._say_limits(meter, wire)
        if refusal.retry_after_s is None or error.counter.period.is_budget:
            wire.add_header("x-should-retry", "false")  # OpenAI's clients would try again
        return refusal

    def _say_limits(self, meter: Meter, wire: Wire) -> None:
        """As OpenAI's API says them. `remaining` is what this gateway knows to be left."""
        for name, word in _RATE_HEADERS.items():
            counter = meter.counters.get(name)
            if counter is None:
                continue
            left = counter.granted - counter.used + max(0, counter.free or 0)
            wire.add_header(f"x-ratelimit-limit-{word}", str(counter.limit))
            wire.add_header(f"x-ratelimit-remaining-{word}", str(min(counter.limit, max(0, left))))
            wire.add_header(f"x-ratelimit-reset-{word}", f"{max(0.0, counter.window.ends_at - self._now()):.3f}s")
