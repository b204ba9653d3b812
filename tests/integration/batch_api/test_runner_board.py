"""What a runner follows of the batches at a real etcd: no more than what it may take."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection

import pytest

from serving.batch.runner.board import Board
from serving.store import EtcdClient, keys
from serving.store.cache import CacheUpdate, PrefixCache
from serving.store.records import encode
from tests.support.batches import order_of
from tests.support.waiting import aeventually

HERE, BESIDE = "", "b"  # behind the test's own name: the keys of the one begin like those of the other
IDS = ("batch_1", "batch_12")


@pytest.mark.parametrize(
    ("namespaces", "batch_id", "followed"),
    [
        ([HERE], "batch_1", {(HERE, "batch_1")}),
        ([HERE], "", {(HERE, one) for one in IDS}),
        ([HERE, BESIDE], "", {(namespace, one) for namespace in (HERE, BESIDE) for one in IDS}),
        ([], "", {(namespace, one) for namespace in (HERE, BESIDE) for one in IDS}),
    ],
)
async def test_a_runner_follows_what_it_may_take(
    store: EtcdClient,
    monkeypatch: pytest.MonkeyPatch,
    namespaces: Collection[str],
    batch_id: str,
    followed: set[tuple[str, str]],
) -> None:
    own = f"n{secrets.token_hex(4)}"
    namespaces, followed = [own + one for one in namespaces], {(own + one, name) for one, name in followed}
    sent: set[tuple[str, str]] = set()

    class Watched(PrefixCache):
        async def start(self) -> None:
            self.listen(note)
            await super().start()

    def note(update: CacheUpdate) -> None:
        names = (keys.parse_batch(key) for key in update.keys)
        sent.update(one[:2] for one in names if one is not None and one[0].startswith(own))

    monkeypatch.setattr("serving.batch.runner.board.PrefixCache", Watched)
    board = Board(store, "r1", namespaces, lambda _: None, batch_id=batch_id)
    await board.start()
    try:
        await aeventually(lambda: asyncio.sleep(0, board.fresh), what="it is followed")
        for namespace in (own + BESIDE, own + HERE):
            for one in reversed(IDS):  # what is awaited last is what everybody follows
                order = order_of(one, namespace=namespace, mode="own" if batch_id else "")
                await store.put(keys.batch(namespace, one, "order"), encode(order))
        await aeventually(lambda: asyncio.sleep(0, followed <= sent), what="changes come")
        assert sent == followed
        assert all(board.get(name) is not None for name in followed)
    finally:
        await board.close()
