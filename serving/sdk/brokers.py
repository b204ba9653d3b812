"""The brokers of applications as their clients ask them: finds who serves a journal, and follows it when it moves."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from serving._proto import broker_pb2 as bpb
from serving._proto import records_pb2 as pb
from serving._proto.broker_pb2_grpc import BrokerStub
from serving.broker.pulled import takes
from serving.config import TlsConfig
from serving.control import Backoff
from serving.discovery.client_peer import CHANNEL_OPTIONS
from serving.discovery.client_tls import channel_credentials
from serving.discovery.resolver import START_WAIT_S, Resolver
from serving.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from serving.routing.rendezvous import RendezvousMember, rendezvous_order
from serving.sdk.broker_choice import Choice, check_any_takes, uncertain
from serving.sdk.broker_errors import Away, NoHome, broker_error, refusal
from serving.sdk.exchange import Exchange, Refused
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.timeouts import wait_for
from serving.types import PROTOCOL_BROKER_GRPC, ROLE_BROKER

T = TypeVar("T")
MAX_APPLICATIONS: Final = 256
_BACKOFF: Final = Backoff(first_s=0.05, limit_s=1.0, jitter=0.5)
_STEP_S: Final = 30.0  # one call lasts so long at most, beside what it was asked to wait

# Who waits for an item's end hears of a broker whose machine has gone, though nothing is sent meanwhile.
_OPTIONS: Final = (
    *CHANNEL_OPTIONS,
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True, slots=True)
class _Connection:
    channel: grpc.aio.Channel
    stub: BrokerStub
    exchange: Exchange

    async def close(self) -> None:
        await self.exchange.close()
        await self.channel.close(None)


@dataclass(slots=True)
class _Application:
    resolver: Resolver
    connections: dict[str, _Connection] = field(default_factory=dict)  # by address
    used_at: float = field(default_factory=time.monotonic)
    users: int = 0

    def brokers(self) -> list[pb.Endpoint]:
        return [one for one in self.resolver.view.ready if one.protocol == PROTOCOL_BROKER_GRPC]

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in self.connections.values()))
        await self.resolver.close()


@dataclass(frozen=True, slots=True)
class _Begun:
    """A call that a broker has taken."""

    endpoint: pb.Endpoint
    call: grpc.aio.UnaryStreamCall[bpb.SubmitRequest, bpb.FollowReply]
    first: bpb.FollowReply


class Brokers:
    """Belongs to one event loop. `store` is its owner's to close."""

    def __init__(self, store: EtcdClient, tls: TlsConfig | None) -> None:
        self._store = store
        self._tls = tls
        self._credentials: grpc.ChannelCredentials | None = None
        self._known: dict[AppKey, _Application] = {}
        self._opening = asyncio.Lock()
        self._closed = False

    async def close(self) -> None:
        """Ends what runs. May be repeated."""
        self._closed = True
        known, self._known = list(self._known.values()), {}
        await asyncio.gather(*(one.close() for one in known))

    # ------------------------------------------------------------------------------------------------ questions

    async def submit(self, app: AppKey, request: bpb.SubmitRequest, timeout_s: float) -> bpb.SubmitReply:
        """Returns when the item is on disk.

        A request without an idempotency key gets one here. A broker that surely has not taken it is left for another
        one; of one that may have taken it the journals are waited for, wherever they are served, and asked again with
        the same key, so that there is one item. Raises `QueueFull`, and `DeadlineExceeded` that says where it stands.
        """
        until = time.monotonic() + timeout_s
        async with self._application(app, until) as opened:

            async def once(endpoint: pb.Endpoint) -> bpb.SubmitReply:
                reply: bpb.SubmitReply = await self._call(opened, endpoint, "Submit", request, until)
                return reply

            return await self._taken(opened, app, request, until, once)

    async def call(
        self, app: AppKey, request: bpb.SubmitRequest, *, timeout_s: float | None, taken_s: float
    ) -> AsyncGenerator[bpb.FollowReply, None]:
        """A submit whose end its caller waits for: first `taken`, then what one connection brings, to the item's end.

        Its first reply comes within `taken_s`, found as `submit` finds its own. Raises as that does before, and after
        it `Unavailable` when the connection ends too early: `follow` the ticket then. The item is cancelled when this
        is closed before its end.
        """
        until = time.monotonic() + taken_s
        async with self._application(app, until) as opened:

            async def once(endpoint: pb.Endpoint) -> _Begun:
                call = self._connected(opened, endpoint).stub.Call(request, timeout=timeout_s)
                try:
                    first = await wait_for(call.read(), max(0.0, until - time.monotonic()))
                except asyncio.TimeoutError:
                    call.cancel()  # which cancels what it has taken
                    raise Unavailable(f"no broker of {app} has taken the request within {taken_s:g} s") from None
                except grpc.aio.AioRpcError as error:
                    raise broker_error(error, endpoint) from error
                except BaseException:
                    call.cancel()
                    raise
                return _Begun(endpoint, call, first)

            begun = await self._taken(opened, app, request, until, once)
            try:
                reply: object = begun.first
                while isinstance(reply, bpb.FollowReply):  # else it has ended
                    yield reply
                    reply = await begun.call.read()
            except grpc.aio.AioRpcError as error:
                raise broker_error(error, begun.endpoint) from error
            finally:
                begun.call.cancel()

    async def _taken(
        self,
        opened: _Application,
        app: AppKey,
        request: bpb.SubmitRequest,
        until: float,
        once: Callable[[pb.Endpoint], Awaitable[T]],
    ) -> T:
        """What `once` brings of the first broker that has taken the request. Raises as `submit` does."""
        own_key = not request.idempotency_key
        request.idempotency_key = request.idempotency_key or secrets.token_urlsafe(24)
        request.new_key = own_key
        bound: frozenset[str] = frozenset()
        drained: set[str] = set()
        left: set[str] = set()  # brokers that have not taken it: with a key of the caller's it belongs to one of them
        failures = 0
        while True:
            endpoint = await self._taker(opened, request, app, Choice(bound, left, drained, own_key), until)
            try:
                return await once(endpoint)
            except Away as away:
                if away.drained:
                    bound = frozenset()  # it surely does not have it
                    drained.add(endpoint.id)
                    check_any_takes(opened.brokers(), drained, app, request.deployment)
                elif away.begun:
                    bound = bound or frozenset(endpoint.journals)
                elif own_key:
                    left.add(endpoint.id)
            except DeadlineExceeded as error:
                raise uncertain(app, request) from error
            request.new_key = False  # somebody may have it now
            failures += 1
            await _pause(failures, until)

    async def ask(
        self, app: AppKey, journal: str, method: str, request: Any, *, wait_s: float = 0.0, timeout_s: float
    ) -> Any:
        """The answer of whoever serves the journal, which is looked for until the time is over; safe to repeat."""
        until = time.monotonic() + timeout_s
        async with self._application(app, until) as opened:
            failures, last = 0, ""
            while True:
                endpoint = await self._home(opened, app, journal, until, last)
                try:
                    return await self._call(opened, endpoint, method, request, until, wait_s=wait_s)
                except Away as away:
                    last = away.message
                except DeadlineExceeded as late:
                    if time.monotonic() >= until:
                        raise
                    last = late.message  # it hangs: whoever serves the journal next is asked again
                failures += 1
                await _pause(failures, until)

    async def follow(
        self, app: AppKey, journal: str, request: bpb.FollowRequest, *, timeout_s: float | None, home_s: float
    ) -> AsyncGenerator[bpb.FollowReply, None]:
        """What one connection brings, to its end. Raises `Unavailable` when that comes too early: follow again.

        Whoever serves the journal is looked for during `home_s`.
        """
        until = time.monotonic() + (home_s if timeout_s is None else min(home_s, timeout_s))
        async with self._application(app, until) as opened:
            endpoint = await self._home(opened, app, journal, until, "")
            call = self._connected(opened, endpoint).stub.Follow(request, timeout=timeout_s)
            try:
                async for reply in call:
                    yield reply
            except grpc.aio.AioRpcError as error:
                raise broker_error(error, endpoint) from error
            finally:
                call.cancel()

    async def everywhere(
        self, app: AppKey, method: str, request: Any, *, timeout_s: float, only: str = ""
    ) -> list[tuple[pb.Endpoint, Any]]:
        """The answers of all brokers of the application, or of the one with this id. Raises `NotFound`."""
        until = time.monotonic() + timeout_s
        async with self._application(app, until) as opened:
            endpoints = opened.brokers()
            if not endpoints:
                raise NotFound(f"{app} has no broker in discovery")
            if only and only not in (names := sorted(one.id for one in endpoints)):
                raise NotFound(f"{app} has no broker `{only[:100]}`; it has {', '.join(names)}")
            endpoints = [one for one in endpoints if only in ("", one.id)]
            answers = await asyncio.gather(*(self._call(opened, one, method, request, until) for one in endpoints))
            return list(zip(endpoints, answers, strict=True))

    async def pages(self, app: AppKey, method: str, request: Any, *, limit: int, timeout_s: float) -> list[bpb.Item]:
        """The first `limit` items of each broker of the application; `method` is `List` or `ListCallbacks`."""
        until = time.monotonic() + timeout_s
        found: list[bpb.Item] = []
        for endpoint, first in await self.everywhere(app, method, request, timeout_s=timeout_s):
            async with self._application(app, until) as opened:
                reply, count = first, 0
                while True:
                    found.extend(reply.items)
                    count += len(reply.items)
                    if not reply.next or count >= limit:
                        break
                    more = type(request)()
                    more.CopyFrom(request)
                    more.page = reply.next
                    reply = await self._call(opened, endpoint, method, more, until)
        return found

    # ------------------------------------------------------------------------------------------------ who is asked

    async def _taker(
        self, opened: _Application, request: bpb.SubmitRequest, app: AppKey, choice: Choice, until: float
    ) -> pb.Endpoint:
        """Equal keys go to the journal that has the best claim on them. Raises `NotFound`, `DeadlineExceeded`."""

        def look() -> pb.Endpoint | None:
            brokers = opened.brokers()
            taking = [one for one in brokers if takes(one.before, request.deployment)]
            if brokers and not taking:
                raise NotFound(f"no broker of {app} takes requests for the deployment `{request.deployment}`")
            able = choice.among(taking)
            claims = [(RendezvousMember(name, 1), one) for one in able for name in (one.journals or [one.id])]
            if not claims:
                return None
            return claims[rendezvous_order(request.idempotency_key, [member for member, _ in claims])[0]][1]

        found = await _awaited(opened.resolver, look, until)
        if found is None and choice.bound:
            raise uncertain(app, request)
        if found is None:
            raise Unavailable(f"{app} has no broker in discovery that takes requests")
        return found

    async def _home(self, opened: _Application, app: AppKey, journal: str, until: float, last: str) -> pb.Endpoint:
        def look() -> pb.Endpoint | None:
            return next((one for one in opened.brokers() if journal in one.journals), None)

        found = await _awaited(opened.resolver, look, until)
        if found is None:
            why = f"; last heard: {last}" if last else ""
            raise NoHome(f"no broker of {app} serves the journal {journal} now{why}")
        return found

    # ------------------------------------------------------------------------------------------------ calls

    async def _call(
        self, opened: _Application, endpoint: pb.Endpoint, method: str, request: Any, until: float, *, wait_s: float = 0
    ) -> Any:
        """Raises `Away` where another broker, or a later call, may help."""
        if self._closed:  # nobody would close what is opened now
            raise FailedPrecondition("the mesh client was closed meanwhile")
        left_s = min(until - time.monotonic(), wait_s + _STEP_S)
        if left_s <= 0:
            raise DeadlineExceeded(f"{method} was not answered in time")
        try:
            return await self._connected(opened, endpoint).exchange.call(method, request, left_s)
        except grpc.aio.AioRpcError as error:
            raise broker_error(error, endpoint) from error
        except Refused as error:
            raise refusal(error.refusal, endpoint) from error
        except asyncio.CancelledError:
            if self._closed:
                raise FailedPrecondition("the mesh client was closed meanwhile") from None
            raise

    def _connected(self, opened: _Application, endpoint: pb.Endpoint) -> _Connection:
        address = endpoint.address
        found = opened.connections.get(address)
        if found is None:
            if endpoint.tls:
                credentials = self._credentials or grpc.ssl_channel_credentials()
                channel = grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
            else:
                channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
            stub = BrokerStub(channel)  # type: ignore[no-untyped-call]
            found = opened.connections[address] = _Connection(channel, stub, Exchange(stub))
        return found

    # ------------------------------------------------------------------------------------------------ applications

    @contextlib.asynccontextmanager
    async def _application(self, app: AppKey, until: float) -> AsyncIterator[_Application]:
        if self._closed:
            raise FailedPrecondition("the mesh client is closed")
        opened = self._known.get(app)
        if opened is None:
            async with self._opening:
                opened = self._known.get(app) or await self._open(app, until)
        opened.users += 1
        try:
            await self._close_left(opened)
            yield opened
        finally:
            opened.users -= 1
            opened.used_at = time.monotonic()

    async def _open(self, app: AppKey, until: float) -> _Application:
        if self._tls is not None and self._credentials is None:
            self._credentials = await asyncio.to_thread(channel_credentials, self._tls)
        idle = [(one.used_at, key) for key, one in self._known.items() if not one.users]
        if len(self._known) >= MAX_APPLICATIONS and idle:
            await self._known.pop(min(idle)[1]).close()
        resolver = Resolver(self._store, app, role=ROLE_BROKER)
        try:
            await resolver.start(wait_s=min(START_WAIT_S, max(0.0, until - time.monotonic())))
        except BaseException:
            await resolver.close()
            raise
        opened = self._known[app] = _Application(resolver)
        return opened

    @staticmethod
    async def _close_left(opened: _Application) -> None:
        """Connections to brokers that are gone, once nobody else may use them."""
        if opened.users > 1:
            return
        there = {one.address for one in opened.brokers()}
        for address in [address for address in opened.connections if address not in there]:
            await opened.connections.pop(address).close()


async def _awaited(resolver: Resolver, look: Callable[[], T | None], until: float) -> T | None:
    """What `look` finds in the view, now or when it changes; None when the time is over."""
    found = look()
    if found is not None:
        return found
    views = resolver.subscribe()
    try:
        while True:
            await wait_for(anext(views), max(0.0, until - time.monotonic()))
            found = look()
            if found is not None:
                return found
    except (asyncio.TimeoutError, StopAsyncIteration):
        return None
    finally:
        await views.aclose()


async def _pause(failures: int, until: float) -> None:
    pause_s = _BACKOFF.delay_s(failures)
    await asyncio.sleep(max(0.0, min(pause_s, until - time.monotonic())))
