"""The batches as etcd has them, followed: those with work left, and what tenants were given lately."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from serving.batch.orders.batch import (
    CANCEL,
    CLAIM,
    ENDED_STATES,
    ORDER,
    STATUS,
    Batch,
    is_claimable,
    read_batches,
    seconds,
)
from serving.batch.runner.schedule import HALF_LIFE_S, Candidate, Given, used
from serving.store import keys
from serving.store.cache import CacheUpdate, PrefixCache
from serving.store.client import EtcdClient

_FORGOTTEN_S: Final = 8 * HALF_LIFE_S
Name = tuple[str, str]  # namespace, id


def _prefix(namespaces: Collection[str], batch_id: str) -> str:
    """Of the keys that can matter: each status of a running batch, every second, goes to all that follow it."""
    if len(namespaces) != 1:
        return keys.BATCHES
    (namespace,) = namespaces
    return keys.batch(namespace, batch_id, "") if batch_id else keys.batches(namespace)


class Board:
    """From `start` to `close`, the last picture while etcd is away. Belongs to one event loop."""

    def __init__(
        self,
        client: EtcdClient,
        runner: str,
        namespaces: Collection[str],
        on_change: Callable[[Name], None],
        *,
        batch_id: str = "",
    ) -> None:
        """`namespaces` empty: all. `batch_id`: the only batch that counts; empty: all but those of mode `own`.

        `on_change` hears of each batch that has changed, and must be quick.
        """
        self._runner = runner
        self._cache = PrefixCache(client, _prefix(namespaces, batch_id))
        self._namespaces = namespaces
        self._batch_id = batch_id
        self._on_change = on_change
        self._open: dict[Name, Batch] = {}
        self._given: dict[Name, Given] = {}
        self._cache.listen(self._take)

    async def start(self) -> None:
        """Returns at once: a runner is ready whether etcd answers or not."""
        await self._cache.start()

    async def close(self) -> None:
        await self._cache.close()

    @property
    def fresh(self) -> bool:
        """What it shows is what there is: a batch that seems to wait may be claimed."""
        return self._cache.synced and not self._cache.stale

    def get(self, name: Name) -> Batch | None:
        """A batch that has not ended by a runner's word."""
        return self._open.get(name)

    def candidates(self, here: Mapping[Name, float], now: float) -> list[Candidate]:
        """Those that wait or run; `here` are this runner's own, and since when (unix seconds).

        What it has claimed and is not at, as it was started again, waits.
        """
        found = []
        for name, batch in self._open.items():
            elsewhere = batch.claim is not None and batch.claim.runner != self._runner
            if not (elsewhere or name in here or is_claimable(batch, now, self._runner)):
                continue
            one = Candidate(
                *name,
                created_at=seconds(batch.order.created_at),
                expires_at=seconds(batch.order.expires_at),
                running_since=here.get(name, 0.0) if elsewhere or name in here else None,
                here=name in here,
            )
            found.append(one)
        return found

    def used(self, now: float) -> dict[str, float]:
        """By tenant; see `schedule.used`."""
        for name in [name for name, one in self._given.items() if now - one.at > _FORGOTTEN_S]:
            del self._given[name]
        return used(self._given.values(), now)

    def _take(self, update: CacheUpdate) -> None:
        parsed = (keys.parse_batch(key) for key in update.keys)
        for name in {one[:2] for one in parsed if one is not None}:
            if (self._namespaces and name[0] not in self._namespaces) or self._batch_id not in ("", name[1]):
                continue
            found = (self._cache.get(keys.batch(*name, part)) for part in (ORDER, STATUS, CANCEL, CLAIM))
            batch = read_batches(kv for kv in found if kv is not None).get(name)
            if batch is not None and batch.own and not self._batch_id:
                continue
            self._note(name, batch)
            self._on_change(name)

    def _note(self, name: Name, batch: Batch | None) -> None:
        status = None if batch is None else batch.status
        if batch is None or (status is not None and status.state in ENDED_STATES):
            self._open.pop(name, None)
        else:
            self._open[name] = batch
        if status is not None:
            cost = status.prompt_tokens + status.completion_tokens + status.completed + status.failed
            self._given[name] = Given(name[0], float(cost), seconds(status.updated_at))
