"""From a request to an item at a broker: which model it is for, whether it may be asked, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from serving._proto import broker_pb2 as bpb
from serving.access.estimate import answer_tokens, prompt_tokens
from serving.errors import MeshError, PermissionDenied, Unavailable
from serving.gateway.asked import asked, session_of
from serving.gateway.balance import size_of
from serving.gateway.catalog import ModelKey
from serving.gateway.follower import CatalogFollower
from serving.gateway.queued.asker import Asker
from serving.gateway.queued.ids import QueuedId
from serving.gateway.queued.journals import Journals
from serving.gateway.queued.objects import new_item, own_labels
from serving.gateway.queued.options import CALLBACK_SECRET, ItemOptions
from serving.gateway.queued.targets import QueueTargets
from serving.gateway.route_follower import Routes
from serving.gateway.splits import Splits, lookup_of
from serving.openai.chat import read_chat
from serving.openai.checked import checked
from serving.openai.completions import read_completion
from serving.openai.embeddings import EmbeddingRequest
from serving.openai.errors import InvalidRequest
from serving.openai.json_body import PARSED_APART
from serving.openai.responses import read_response_request
from serving.openai.sse import to_json
from serving.routing.llm_routing import SESSION_HEADER
from serving.store.keys import AppKey

_SUBMIT_S: Final = 30.0
# What replicas answer is known before they are asked: who waits for an answer should not learn then that it is none.
CHECKS: Final[Mapping[str, Callable[[Mapping[str, Any]], object]]] = {
    "/v1/chat/completions": read_chat,
    "/v1/completions": read_completion,
    "/v1/embeddings": lambda body: checked(EmbeddingRequest, body, {}),
    "/v1/responses": read_response_request,
}
_PASSED: Final = frozenset({b"traceparent", b"tracestate", b"user-agent"})


@dataclass(frozen=True, slots=True)
class Target:
    key: ModelKey
    deployment: str

    @property
    def app(self) -> AppKey:
        return AppKey(self.key.namespace, self.key.application)


@dataclass(frozen=True, slots=True)
class Submitted:
    """`repeated`: its idempotency key was known, and this is what was submitted first."""

    name: QueuedId
    item: bpb.Item
    repeated: bool


class Submitter:
    """Belongs to one event loop."""

    def __init__(
        self,
        follower: CatalogFollower,
        routes: Routes,
        splits: Splits,
        targets: QueueTargets,
        journals: Journals,
        *,
        called: str,
    ) -> None:
        self._follower = follower
        self._routes = routes
        self._splits = splits
        self._targets = targets
        self._journals = journals
        self._called = called

    async def openai(self, path: str, body: dict[str, Any], options: ItemOptions, asker: Asker) -> Submitted:
        """A body of OpenAI's protocol for `path`. Raises `InvalidRequest` for one that no replica would take."""
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise InvalidRequest("`model` is missing: the name of a model of /v1/models", param="model")
        target = await self.target(name, body, options, asker, openai=True)
        data = to_json({**body, "model": target.key.model})
        check = CHECKS[path]
        if len(data) > PARSED_APART:
            await asyncio.to_thread(check, body)
        else:
            check(body)
        demand = size_of(path, body)
        tokens = prompt_tokens(len(data)) + answer_tokens(demand.answer_tokens, demand.choices)
        request = bpb.Request(http=bpb.HttpCall(path=path, body=data))
        return await self.submit(target, request, path, options, asker, tokens)

    async def target(
        self, name: str, body: Mapping[str, Any], options: ItemOptions, asker: Asker, *, openai: bool
    ) -> Target:
        """Of a route, the first of its models that a broker takes requests for. Raises as `asked` does."""
        if not (self._follower.synced and self._routes.synced):
            raise Unavailable(f"the models are not known yet: etcd has not answered since this {self._called} started")
        session = session_of(asker.wire.header(SESSION_HEADER.encode()), body) or options.key
        catalog = self._targets.catalog(openai=openai)
        found = asked(name, catalog, self._routes.routes, session, may_ask=asker.may_ask)
        lookup = lookup_of(asker.scope["headers"], body)
        first: MeshError | None = None
        for key in found.keys:
            offer = catalog.get(key)
            if offer is None:
                continue
            chosen = await self._splits.choose(key, lookup, session, None)
            try:
                target = Target(key, self._targets.deployment(offer, chosen, options.key))
            except (InvalidRequest, Unavailable) as error:
                first = first or error
                continue
            asker.call.ask(key)
            return target
        raise first or Unavailable(f"no model of the route `{name}` is known now; try again later")

    async def submit(
        self, target: Target, request: bpb.Request, path: str, options: ItemOptions, asker: Asker, tokens: int
    ) -> Submitted:
        """Returns when it is on disk. `tokens` are charged to the key's limits; nothing for one that is repeated.

        `path` is what tells later what was asked.
        """
        _check_secret(options, asker)
        for header, value in asker.scope["headers"]:
            if header in _PASSED:
                request.metadata[header.decode("latin-1")] = value.decode("latin-1")
        request.metadata["x-request-id"] = asker.wire.request_id
        wanted = bpb.SubmitRequest(
            deployment=target.deployment,
            request=request,
            tenant=asker.call.tenant,
            idempotency_key=options.key,
            priority=options.priority,
            deadline_s=options.deadline_s,
            expected_s=options.expected_s,
            labels={**options.labels, **own_labels(target.key, path)},
            result_ttl_s=options.result_ttl_s,
            callback=options.callback,
        )
        left_s = asker.wire.time_left_s()
        timeout_s = _SUBMIT_S if left_s is None else min(left_s, _SUBMIT_S)
        async with asker.admitted(tokens) as usage:
            try:
                reply = await self._journals.submit(target.app, wanted, timeout_s)
            except asyncio.CancelledError:  # its client has gone, and it may be kept: repeating it costs nothing
                usage.charge(tokens)
                raise
            name = QueuedId(target.app, reply.ticket)
            if reply.repeated:
                return Submitted(name, await self._journals.item(name, asker), repeated=True)
            usage.charge(tokens)
            return Submitted(name, new_item(reply.ticket, wanted), repeated=False)


def _check_secret(options: ItemOptions, asker: Asker) -> None:
    """A tenant's callbacks are signed as its own: with another's secret it could speak for that one."""
    secret = options.callback.secret_name if options.callback is not None else ""
    if asker.gate is not None and secret not in ("", asker.call.tenant):
        raise PermissionDenied(
            f"the header `{CALLBACK_SECRET}`: with an API key only the secret with the tenant's own name may sign"
        )
