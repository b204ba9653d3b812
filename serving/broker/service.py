"""`mesh.broker.v1.Broker` (proto/broker.proto) over the journals of a home.

Messages arrive as bytes, so that what is malformed is answered INVALID_ARGUMENT, and bodies are passed on as they are.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from serving._proto import broker_pb2 as pb
from serving.broker import messages, tickets
from serving.broker.attending import Attending
from serving.broker.callbacks.deliveries import Deliveries
from serving.broker.clients import Clients, reply_of, ticket_of
from serving.broker.draining import DRAINED
from serving.broker.exchange import Exchange
from serving.broker.home import Home
from serving.broker.instruments import BrokerInstruments
from serving.broker.items import Item
from serving.broker.journal import Found
from serving.broker.lists import Lists
from serving.broker.partial_results import Part
from serving.broker.pull_stream import PullStream
from serving.broker.settings import BrokerSettings
from serving.broker.shard import Shard
from serving.broker.statistics import statistics
from serving.errors import Code, InvalidArgument, MeshError, Unavailable
from serving.python_deployment.codec import parse
from serving.python_deployment.failure import at_edge, status_text
from serving.python_deployment.service import left_s

SERVICE: Final = "mesh.broker.v1.Broker"
DRAINING: Final = "this broker is draining and takes no new requests; ask another one, or this application's next"
_LOG: Final = logging.getLogger(__name__)
_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}
_MOST_DISCARD_S: Final = 3600.0
_MOST_FETCHED: Final = 64 << 20  # bytes of one GetMany, the last item excepted

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]


class BrokerService:
    """The handlers. `refusing` is set while the broker drains."""

    def __init__(
        self, home: Home, settings: BrokerSettings, instruments: BrokerInstruments, deliveries: Deliveries
    ) -> None:
        self._home = home
        self._deliveries = deliveries
        self._settings = settings
        self._instruments = instruments
        self.refusing = asyncio.Event()
        self._attending = Attending(self.refusing)
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def handlers(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        lists = Lists(self._home)
        own: dict[str, Handler] = {
            "Submit": self._submit,
            "SubmitMany": self._submit_many,
            "Get": self._get,
            "GetMany": self._get_many,
            "Cancel": self._cancel,
            "Retry": self._retry,
            "List": lists.items,
            "ListCallbacks": lists.callbacks,
            "RetryCallback": self._retry_callback,
            "Statistics": self._statistics,
            "Drain": self._drain,
        }
        methods: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name, handler)) for name, handler in own.items()
        }
        methods["Call"] = grpc.stream_stream_rpc_method_handler(self._streaming("Call", self._call))
        methods["Follow"] = grpc.unary_stream_rpc_method_handler(self._streaming("Follow", self._follow))
        methods["Exchange"] = grpc.stream_stream_rpc_method_handler(self._streaming("Exchange", self._exchange))
        methods["Pull"] = grpc.stream_stream_rpc_method_handler(self._streaming("Pull", self._pull))
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _unary(self, name: str, handler: Handler) -> Handler:
        async def answer(data: bytes, context: Context) -> bytes:
            if self.refusing.is_set():
                await self._abort(context, Unavailable(DRAINING))
            started = time.perf_counter()
            code = Code.CANCELLED
            self.enter()
            try:
                made = await handler(data, context)
                code = Code.OK
                return made
            except asyncio.CancelledError:  # by the client, or by its deadline
                code = Code.DEADLINE_EXCEEDED if left_s(context) == 0 else Code.CANCELLED
                raise
            except Exception as error:  # noqa: BLE001 - the edge: it becomes a status
                failure = at_edge(error, name, _LOG)
                code = failure.code
            finally:
                self.leave()
                self._instruments.called(name, code, time.perf_counter() - started)
            await self._abort(context, failure)
            return b""

        return answer

    def _streaming(self, name: str, run: Callable[[Any, Context], Awaitable[None]]) -> Callable[[Any, Context], Any]:
        async def answer(first: Any, context: Context) -> None:
            if self.refusing.is_set():
                await self._abort(context, Unavailable(DRAINING))
            started = time.perf_counter()
            code = Code.CANCELLED
            failure: MeshError | None = None
            try:
                await run(first, context)
                code = Code.OK
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - the edge: it becomes a status
                failure = at_edge(error, name, _LOG)
                code = failure.code
            finally:
                self._instruments.called(name, code, time.perf_counter() - started)
            if failure is not None:
                await self._abort(context, failure)

        return answer

    def enter(self) -> None:
        self.in_flight += 1
        self.idle.clear()

    def leave(self) -> None:
        self.in_flight -= 1
        if self.in_flight == 0:
            self.idle.set()

    def note(self, name: str, code: Code, seconds: float) -> None:
        """See `Answering`."""
        self._instruments.called(name, code, seconds)

    @staticmethod
    async def _abort(context: Context, failure: MeshError) -> None:
        after = getattr(failure, "retry_after_ms", None)
        trailing = (("retry-after-ms", str(after)),) if after is not None else ()
        await context.abort(_STATUS[int(failure.code)], status_text(failure.message), trailing)

    # ------------------------------------------------------------------------------------------------ submit

    async def _submit(self, data: bytes, context: Context) -> bytes:
        message = parse(data, pb.SubmitRequest)
        made = self._read(message, time.time(), _trace_of(context))
        (answer,) = await self._keep([made])
        if isinstance(answer, MeshError):
            raise answer
        return answer.SerializeToString()

    def _read(self, message: pb.SubmitRequest, now: float, trace: Mapping[str, str]) -> tuple[Item, bytes]:
        item, body = messages.read_submit(message, self._settings, now, trace)
        if item.callback is not None:
            self._deliveries.admit(item.callback)
        return item, body

    async def _submit_many(self, data: bytes, context: Context) -> bytes:
        message = parse(data, pb.SubmitManyRequest)
        if len(message.requests) > messages.MAX_SUBMITS:
            raise InvalidArgument(f"requests: {len(message.requests)} are more than {messages.MAX_SUBMITS}")
        reply = pb.SubmitManyReply()
        for outcome in await self.submitted(message.requests, _trace_of(context)):
            if isinstance(outcome, MeshError):
                reply.outcomes.add(refused=pb.Failure(code=int(outcome.code), message=outcome.message))
            else:
                reply.outcomes.add(reply=outcome)
        return reply.SerializeToString()

    async def submitted(
        self, requests: Sequence[pb.SubmitRequest], trace: Mapping[str, str]
    ) -> list[pb.SubmitReply | MeshError]:
        """See `Answering`."""
        now = time.time()
        answers: dict[int, pb.SubmitReply | MeshError] = {}
        good: dict[int, tuple[Item, bytes]] = {}
        for index, request in enumerate(requests):
            try:
                good[index] = self._read(request, now, trace)
            except Exception as error:  # noqa: BLE001 - an edge: it is the refusal of this one alone
                answers[index] = at_edge(error, "Submit", _LOG)
        answers.update(zip(good, await self._keep(list(good.values())), strict=True))
        return [answers[index] for index in range(len(requests))]

    async def _keep(self, wanted: Sequence[tuple[Item, bytes]]) -> list[pb.SubmitReply | MeshError]:
        """In the broker's own journal; in one that it adopted where that knows the idempotency key."""
        if self._home.draining.on:
            return await self._repeated(wanted)
        shard, clients = self._home.own
        elsewhere = await self._known(self._home.others, [item for item, _ in wanted if item.looked_for])
        new = [each for each in wanted if (each[0].tenant, each[0].key) not in elsewhere]
        answers = iter(await clients.submit(new))
        replies: list[pb.SubmitReply | MeshError] = []
        for item, _ in wanted:
            ticket = elsewhere.get((item.tenant, item.key))
            replies.append(
                reply_of(shard, next(answers)) if ticket is None else pb.SubmitReply(ticket=ticket, repeated=True)
            )
        return replies

    async def _repeated(self, wanted: Sequence[tuple[Item, bytes]]) -> list[pb.SubmitReply | MeshError]:
        """Of a drained broker: the tickets of those that it has already, and a refusal for the others."""
        items = [item for item, _ in wanted if item.key]
        for clients in list(self._home.clients.values()):
            await clients.settled([(item.tenant, item.key) for item in items])
        known = await self._known(list(self._home.clients), items)
        found = (known.get((item.tenant, item.key)) for item, _ in wanted)
        return [pb.SubmitReply(ticket=ticket, repeated=True) if ticket else Unavailable(DRAINED) for ticket in found]

    async def _known(self, journals: Sequence[str], items: Sequence[Item]) -> dict[tuple[str, str], str]:
        """Tickets by tenant and idempotency key."""
        found: dict[tuple[str, str], str] = {}
        names = [(item.tenant, item.key) for item in items]
        asked = [(name, self._home.clients[name]) for name in journals if names and name in self._home.clients]
        answers = await asyncio.gather(*(clients.known(names) for _, clients in asked))
        for (name, _), known in zip(asked, answers, strict=True):
            shard = self._home.shards.get(name)
            if shard is not None:
                found.update((key, ticket_of(shard, number)) for key, number in known.items())
        return found

    # ------------------------------------------------------------------------------------------------ one item

    def _find(self, text: str) -> tuple[Shard, Clients, int]:
        """Of a ticket, or of the id that an operator has from a list.

        Raises `InvalidArgument`, `NotFound`, or `Unavailable` when its journal is not here.
        """
        journal, number, secret = tickets.read_ticket(text)
        shard = self._home.shards.get(journal)
        if shard is None:
            raise Unavailable(f"the journal {journal} is not served here: ask the broker whose endpoint names it")
        clients = self._home.clients[journal]
        if secret:
            clients.check(number, secret)
        return shard, clients, number

    async def _item(self, shard: Shard, clients: Clients, ticket: str, found: Found) -> bytes:
        """Whoever has only its id may not see its result."""
        item, result = found
        if not tickets.read_ticket(ticket)[2]:
            ticket, result = "", None
        progress = clients.progress_of(item.number)
        made = messages.item_message(item, shard.name, ticket=ticket, progress=progress)
        if item.callback is not None:
            messages.set_callback(made, await shard.callbacks.kept(item.number))
        return messages.item_bytes(made, result)

    async def _get(self, data: bytes, context: Context) -> bytes:
        return await self.got(parse(data, pb.GetRequest), left_s(context)) or b""

    async def got(self, request: pb.GetRequest, within_s: float | None, most: float = math.inf) -> bytes | None:
        """See `Answering`."""
        shard, clients, number = self._find(request.ticket)
        found = await clients.get(number, messages.wait_of(request.wait_s, within_s))
        if found[1] is not None and len(found[1]) > most:
            return None
        return await self._item(shard, clients, request.ticket, found)

    async def _get_many(self, data: bytes, context: Context) -> bytes:
        message = parse(data, pb.GetManyRequest)
        if len(message.tickets) > messages.MAX_TICKETS:
            raise InvalidArgument(f"tickets: {len(message.tickets)} are more than {messages.MAX_TICKETS}")
        until = time.monotonic() + messages.wait_of(message.wait_s, left_s(context))
        outcomes: list[bytes] = []
        size = 0
        for ticket in message.tickets:  # one after the other, so that no more results are in memory than are sent
            try:
                shard, clients, number = self._find(ticket)
                found = await clients.get(number, max(0.0, until - time.monotonic()))
                outcomes.append(messages.found_bytes(await self._item(shard, clients, ticket, found)))
            except MeshError as error:
                outcomes.append(messages.refused_bytes(error))
            size += len(outcomes[-1])
            if size > _MOST_FETCHED:
                break
        return b"".join(outcomes)

    async def _cancel(self, data: bytes, _: Context) -> bytes:
        ticket = parse(data, pb.CancelRequest).ticket
        shard, clients, number = self._find(ticket)
        return await self._item(shard, clients, ticket, await clients.cancel(number))

    async def _retry(self, data: bytes, _: Context) -> bytes:
        ticket = parse(data, pb.RetryRequest).ticket
        shard, clients, number = self._find(ticket)
        return await self._item(shard, clients, ticket, await clients.retry(number))

    async def _retry_callback(self, data: bytes, _: Context) -> bytes:
        found = self._find(parse(data, pb.RetryCallbackRequest).ticket)
        shard, number = found[0], found[2]
        kept = await shard.callbacks.retry(number)
        return messages.set_callback(messages.item_message(kept.item, shard.name), kept).SerializeToString()

    async def _call(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Read as a stream of one: gRPC would hold a single request until its answer has ended."""
        keeping = asyncio.ensure_future(self._keep([await self._called(requests, context)]))
        self.enter()  # whoever drains waits until it is known to be kept
        keeping.add_done_callback(lambda _: self.leave())
        try:
            (answer,) = await asyncio.shield(keeping)
        except asyncio.CancelledError:
            self._attending.leave_when_kept(keeping, self._find)
            raise
        if isinstance(answer, MeshError):
            raise answer
        async with self._attending.attended(*self._find(answer.ticket)):
            await context.write(messages.taken_bytes(answer))
            await self._tell(answer.ticket, 0, context)

    async def _called(self, requests: AsyncIterator[bytes], context: Context) -> tuple[Item, bytes]:
        try:
            message = parse(await anext(requests), pb.SubmitRequest)
        except StopAsyncIteration:
            raise InvalidArgument("a call without a request") from None
        # Who waits says how long it may take to come back, not how long to keep it: less is no error.
        message.result_ttl_s = min(message.result_ttl_s, self._settings.max_result_ttl_s)
        return self._read(message, time.time(), _trace_of(context))

    async def _follow(self, data: bytes, context: Context) -> None:
        message = parse(data, pb.FollowRequest)
        found = self._find(message.ticket)
        if not tickets.read_ticket(message.ticket)[2]:
            raise InvalidArgument("ticket: an id is not enough to follow an item")
        if message.from_part < 0:
            raise InvalidArgument(f"from_part: {message.from_part} is below 0")
        if not message.attended:
            await self._tell(message.ticket, message.from_part, context)
            return
        async with self._attending.attended(*found):
            await self._tell(message.ticket, message.from_part, context)

    async def _tell(self, ticket: str, from_part: int, context: Context) -> None:
        shard, clients, number = self._find(ticket)
        async for found in clients.follow(number, from_part):
            if isinstance(found, Part):
                await context.write(messages.part_bytes(found))
            else:
                await context.write(messages.ended_bytes(await self._item(shard, clients, ticket, found)))

    # ------------------------------------------------------------------------------------------------ about many

    async def _statistics(self, data: bytes, _: Context) -> bytes:
        parse(data, pb.StatisticsRequest)
        return statistics(self._home, self._settings.deployments).SerializeToString()

    async def _drain(self, data: bytes, _: Context) -> bytes:
        draining = self._home.draining
        message = parse(data, pb.DrainRequest)
        if not 0 <= message.discard_s <= _MOST_DISCARD_S or (message.undo and message.discard_s):
            raise InvalidArgument(f"discard_s: {message.discard_s:g} is out of range: 0 to {_MOST_DISCARD_S:g} s")
        await draining.set(not message.undo, discard_s=message.discard_s)
        shards = list(self._home.shards.values())
        live, kept = sum(shard.limits.items for shard in shards), sum(shard.journal.items for shard in shards)
        _LOG.info(
            "an operator said whether requests are taken",
            extra={"drained": draining.on, "live": live, "discards": draining.discards},
        )
        return pb.DrainReply(drained=draining.on, live=live, items=kept).SerializeToString()

    # ------------------------------------------------------------------------------------------------ replicas

    async def _exchange(self, _: object, context: Context) -> None:
        await Exchange(self, self.refusing, context).run()

    async def _pull(self, _: object, context: Context) -> None:
        await PullStream(self._home, self._settings, context).run()


def _trace_of(context: Context) -> dict[str, str]:
    return {str(name): value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
