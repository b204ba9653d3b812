"""Items that somebody waits for on a connection: nobody else wants them, so they end when that one leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeAlias

from serving._proto import broker_pb2 as pb
from serving.broker.clients import Clients
from serving.broker.shard import Shard
from serving.errors import MeshError

Find: TypeAlias = Callable[[str], tuple[Shard, Clients, int]]
_Kept: TypeAlias = "asyncio.Future[list[pb.SubmitReply | MeshError]]"


class Attending:
    """Belongs to the broker's loop. While `refusing` is set nobody leaves: it is the broker that ends the calls."""

    def __init__(self, refusing: asyncio.Event) -> None:
        self._refusing = refusing
        self._waiting: Counter[tuple[str, int]] = Counter()  # by journal and number: who comes back may be there twice

    @contextlib.asynccontextmanager
    async def attended(self, shard: Shard, clients: Clients, number: int) -> AsyncIterator[None]:
        """Within it the caller waits; who leaves before has no use for the item. It is cancelled when nobody waits."""
        item = (shard.name, number)
        self._waiting[item] += 1
        left = False
        try:
            yield
        except MeshError:  # told to the caller, who may come back with the ticket
            raise
        except BaseException:
            left = True
            raise
        finally:
            self._waiting[item] -= 1
            if not self._waiting[item]:
                del self._waiting[item]
                if left:
                    self._leave(shard, clients, number)

    def leave_when_kept(self, keeping: _Kept, find: Find) -> None:
        """Its caller has left while the item was on its way to the disk."""

        def kept(done: _Kept) -> None:
            if done.cancelled() or done.exception() is not None:
                return  # nothing was kept, or nobody can say where
            replies: Sequence[pb.SubmitReply | MeshError] = done.result()
            for reply in replies:
                if isinstance(reply, pb.SubmitReply):
                    with contextlib.suppress(MeshError):  # its journal has moved away meanwhile
                        self._leave(*find(reply.ticket))

        keeping.add_done_callback(kept)

    def _leave(self, shard: Shard, clients: Clients, number: int) -> None:
        if not self._refusing.is_set():
            shard.spawn(clients.leave(number))
