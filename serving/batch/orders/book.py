"""The orders of batches in etcd, as gateways write and read them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import CANCEL, ORDER, Batch, ends_at
from serving.batch.orders.claims import read_batch
from serving.batch.orders.known import KnownBatches
from serving.errors import AlreadyExists, Conflict, NotFound, ResourceExhausted
from serving.observe import get_logger
from serving.stamps import stamp
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.records import encode
from serving.store.types import Compare, Op

_LOG: Final = get_logger(__name__)
_ATTEMPTS: Final = 32
_BYTES_PER_TOKEN: Final = 4
_OF_CLIENT: Final = (
    "endpoint",
    "input_file",
    "completion_window_s",
    "metadata",
    "output_expires_after_s",
    "in_order",
    "mode",
)


@dataclass(frozen=True, slots=True)
class Input:
    """The input of an order. What `there` compares holds when the order is written."""

    bytes: int
    there: Compare


CheckInput: TypeAlias = Callable[[], Awaitable[Input]]


class EndedBatch(Conflict):
    """It has ended: nothing can be cancelled."""


class OrderBook:
    """Belongs to one event loop; `store` is its owner's to close. Times are unix seconds."""

    def __init__(self, store: EtcdClient, *, max_unfinished: int, max_enqueued_tokens: int = 0) -> None:
        """Of batches of a namespace that have not ended: how many, and the tokens of their inputs; 0: any number."""
        self._store = store
        self.known = KnownBatches(store)
        self._max_unfinished = max_unfinished
        self._max_enqueued_tokens = max_enqueued_tokens

    async def create(self, order: pb.BatchOrder, now: float, check: CheckInput | None = None) -> tuple[Batch, bool]:
        """Writes it, once; True where it was there already: a client that asks again gets what it asked for first.

        `check` is asked of one that is new. Raises what that raises, `ResourceExhausted` at a limit, `AlreadyExists`
        for its id with another wish.
        """
        key = keys.batch(order.namespace, order.id, ORDER)
        for _ in range(_ATTEMPTS):
            found = await self.known.read(order.namespace)
            if order.id in found.batches:
                try:
                    return _same(await self.get(order.namespace, order.id), order), True
                except NotFound:  # removed since, or a picture of another past
                    self.known.forget(order.namespace)
                    continue
            unfinished = [one.order for one in found.batches.values() if ends_at(one, now) is None]
            if len(unfinished) >= self._max_unfinished:
                raise ResourceExhausted(
                    f"{len(unfinished)} batches have not ended, as many as there may be; wait for one, or cancel one"
                )
            conditions = [Compare.absent(key), nothing_new(order.namespace, found.revision)]
            if check is not None:
                given = await check()
                order.input_bytes = given.bytes
                conditions.append(given.there)
            self._check_enqueued(unfinished, order)
            if (await self._store.txn(conditions, [Op.put(key, encode(order))])).succeeded:
                _LOG.info("batch ordered", batch=order.id, namespace=order.namespace, endpoint=order.endpoint)
                return Batch(order), False
        raise Conflict("too many batches are created or claimed at the same time; create it again")

    def _check_enqueued(self, unfinished: Iterable[pb.BatchOrder], order: pb.BatchOrder) -> None:
        limit, wanted = self._max_enqueued_tokens, _tokens(order)
        enqueued = sum(map(_tokens, unfinished))
        if limit and enqueued + wanted > limit:
            raise ResourceExhausted(
                f"about {enqueued} tokens wait in batches that have not ended, with {wanted} more above {limit}"
                " (max_enqueued_tokens); wait for a batch, or cancel one"
            )

    async def get(self, namespace: str, batch_id: str) -> Batch:
        """Raises `NotFound`."""
        return await read_batch(self._store, namespace, batch_id)

    async def of_namespace(self, namespace: str) -> Sequence[Batch]:
        """The newest first."""
        return (await self.known.read(namespace)).newest_first

    async def cancel(self, namespace: str, batch_id: str, now: float) -> Batch:
        """Asks for its end; may be repeated. Raises `NotFound`, `EndedBatch`."""
        batch = await self.get(namespace, batch_id)
        if ends_at(batch, now) is not None and batch.cancel is None:
            raise EndedBatch(f"batch {batch_id} has ended")
        if batch.cancel is not None:
            return batch
        asked = pb.BatchCancel(asked_at=stamp(now))
        conditions = [Compare.exists(batch.key(ORDER)), Compare.absent(batch.key(CANCEL))]
        if (await self._store.txn(conditions, [Op.put(batch.key(CANCEL), encode(asked))])).succeeded:
            _LOG.info("batch cancelled", batch=batch.id, namespace=batch.namespace)
        return await self.get(namespace, batch_id)


def _tokens(order: pb.BatchOrder) -> int:
    """Of its input, about: as gateways reserve them for a request that is not read yet."""
    return int(order.input_bytes) // _BYTES_PER_TOKEN


def nothing_new(namespace: str, revision: int) -> Compare:
    """Nothing was ordered, claimed or cancelled in the namespace since it was read, as of `revision`.

    So no more batches are unfinished than there. Statuses may have been written: running batches do so all the time.
    """
    return Compare.prefix_created_before(keys.batches(namespace), revision + 1)


def _same(there: Batch, order: pb.BatchOrder) -> Batch:
    for name in _OF_CLIENT:
        if getattr(there.order, name) != getattr(order, name):
            raise AlreadyExists(f"this idempotency key was used for a batch with another `{name}`: use a new key")
    return there
