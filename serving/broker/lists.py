"""Items of all journals of a broker, in pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from serving._proto import broker_pb2 as pb
from serving.broker import messages, tickets
from serving.broker.home import Home
from serving.broker.queries import Filter
from serving.errors import InvalidArgument
from serving.python_deployment.codec import parse

_LIST: Final = 100
_MOST_LISTED: Final = 1000
Look: TypeAlias = Callable[[str, int, int], Awaitable[tuple[list[pb.Item], int | None]]]


class Lists:
    """Handlers of `List` and `ListCallbacks`: by journal, the oldest first."""

    def __init__(self, home: Home) -> None:
        self._home = home

    async def items(self, data: bytes, _: object) -> bytes:
        message = parse(data, pb.ListRequest)
        wanted = Filter(message.deployment, message.tenant or None, messages.read_states(message.states))

        async def look(name: str, after: int, limit: int) -> tuple[list[pb.Item], int | None]:
            clients = self._home.clients[name]
            found, more = await clients.list(wanted, after, limit)
            items = [messages.item_message(item, name, progress=clients.progress_of(item.number)) for item in found]
            return items, more

        return await self._page(message.limit, message.page, look)

    async def callbacks(self, data: bytes, _: object) -> bytes:
        message = parse(data, pb.ListCallbacksRequest)
        state = messages.read_callback_state(message.state)

        async def look(name: str, after: int, limit: int) -> tuple[list[pb.Item], int | None]:
            found, more = await self._home.shards[name].callbacks.page(state, after, limit)
            return [messages.set_callback(messages.item_message(kept.item, name), kept) for kept in found], more

        return await self._page(message.limit, message.page, look)

    async def _page(self, limit: int, page: str, look: Look) -> bytes:
        """What `look` finds in one journal after the other, and where that ends."""
        left = limit or _LIST
        if not 0 < left <= _MOST_LISTED:
            raise InvalidArgument(f"limit: {limit} is out of range: 1 to {_MOST_LISTED}")
        journal, after = tickets.read_id(page) if page else ("", 0)
        reply = pb.ListReply()
        for name in sorted(self._home.clients):
            if name < journal or name not in self._home.clients:
                continue
            found, more = await look(name, after if name == journal else 0, left - len(reply.items))
            reply.items.extend(found)
            if more is not None:
                reply.next = f"{name}.{more}"
                break
        return reply.SerializeToString()
