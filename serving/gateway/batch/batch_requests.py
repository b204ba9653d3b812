"""`/v1/batches`: what becomes of each request."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Final

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import MODE_OWN, Batch
from serving.batch.orders.book import Input
from serving.batch.orders.view import view
from serving.batch.store.files import INPUT
from serving.errors import NotFound
from serving.gateway.batch.asking import FILE_ID, idempotency_key, namespace_of
from serving.gateway.batch.objects import BatchRequest, page_limit, page_of, read_batch_request
from serving.gateway.batch.parts import BatchParts
from serving.gateway.batch.settings import BatchLimits
from serving.gateway.queued.asker import Asker
from serving.gateway.queued.query import fields
from serving.openai.errors import InvalidRequest
from serving.stamps import stamp
from serving.store import keys
from serving.store.types import Compare

_BODY_BYTES: Final = 1 << 20
_PAGE: Final = 20
_MOST: Final = 100


class BatchRequests:
    """Belongs to one event loop. Its methods raise errors, which become OpenAI's error objects."""

    def __init__(self, parts: BatchParts) -> None:
        self._parts = parts

    async def create(self, asker: Asker) -> None:
        fields(asker.scope, ())
        key = idempotency_key(asker)
        request = read_batch_request(await asker.wire.read_object(_BODY_BYTES))
        now = time.time()
        order = _order(request, asker, key, self._parts.content.url, self._parts.limits, now)
        async with asker.admitted(0):
            batch, repeated = await self._parts.orders.create(order, now, lambda: self._input_there(order, now))
        if not repeated:
            self._parts.instruments.batches.labels(order.endpoint).inc()
        await asker.wire.answer(200, view(batch, now))

    async def _input_there(self, order: pb.BatchOrder, now: float) -> Input:
        """Raises `InvalidRequest`: of what a client sends, it is a field that is wrong."""
        if not FILE_ID.fullmatch(order.input_file):  # and no key in etcd is made of it
            raise _wrong_input(f"there is no file {order.input_file[:80]}", "file_not_found")
        try:
            record = await self._parts.files.get(order.namespace, order.input_file, now)
        except NotFound as error:
            raise _wrong_input(error.message, "file_not_found") from error
        if record.purpose != INPUT:
            raise _wrong_input(f"{record.id} has the purpose {record.purpose}, not {INPUT}", "invalid_value")
        if record.bytes > self._parts.limits.max_input_bytes:
            limit = self._parts.limits.max_input_bytes
            raise _wrong_input(f"{record.id} has {record.bytes} bytes, more than {limit}", "invalid_value")
        return Input(record.bytes, Compare.exists(keys.file(order.namespace, order.input_file)))

    async def list(self, asker: Asker) -> None:
        query = fields(asker.scope, ("after", "limit"))
        limit = page_limit(query.get("limit"), default=_PAGE, most=_MOST)
        found = await self._parts.orders.of_namespace(namespace_of(asker))
        page, more = page_of(found, lambda one: one.id, after=query.get("after", ""), limit=limit)
        first, last = (page[0].id, page[-1].id) if page else (None, None)
        now = time.time()
        data = [view(one, now) for one in page]
        await asker.wire.answer(
            200, {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}
        )

    async def get(self, batch_id: str, asker: Asker) -> None:
        fields(asker.scope, ())
        await _told(await self._parts.orders.get(namespace_of(asker), batch_id), asker)

    async def cancel(self, batch_id: str, asker: Asker) -> None:
        fields(asker.scope, ())
        await _told(await self._parts.orders.cancel(namespace_of(asker), batch_id, time.time()), asker)


async def _told(batch: Batch, asker: Asker) -> None:
    await asker.wire.answer(200, view(batch, time.time()))


def _order(request: BatchRequest, asker: Asker, key: str, store: str, limits: BatchLimits, now: float) -> pb.BatchOrder:
    namespace, holder = namespace_of(asker), asker.call.key
    kept_s = limits.output_expires_after_s
    if request.output_expires_after is not None:
        kept_s = request.output_expires_after.seconds
    order = pb.BatchOrder(
        id=_id_of(namespace, key) if key else f"batch_{secrets.token_hex(16)}",
        namespace=namespace,
        input_file=request.input_file_id,
        endpoint=request.endpoint,
        completion_window_s=request.window_s,
        created_at=stamp(now),
        expires_at=stamp(now + request.window_s),
        metadata=request.metadata or {},
        store=store,
        in_order=bool(request.in_order),
        mode=MODE_OWN if request.mode == MODE_OWN else "",
        output_expires_after_s=kept_s,
    )
    if holder is not None:
        order.key = holder.id
        order.models.extend(holder.models)
        order.namespaces.extend(holder.namespaces)
    return order


def _id_of(namespace: str, key: str) -> str:
    """The same for whoever asks again."""
    return f"batch_{hashlib.sha256(f'batch {namespace} {key}'.encode()).hexdigest()[:32]}"


def _wrong_input(text: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"`input_file_id`: {text}", param="input_file_id", error_code=code)
