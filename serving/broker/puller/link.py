"""One Pull stream to one broker, opened again for as long as the broker is in discovery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from serving._proto import broker_pb2 as bpb
from serving._proto import records_pb2 as pb
from serving.control import Backoff
from serving.discovery.client_peer import CHANNEL_OPTIONS
from serving.timeouts import cancel_and_wait, wait_for

_LOG: Final = logging.getLogger(__name__)
_PULL: Final = "/mesh.broker.v1.Broker/Pull"
_BACKOFF: Final = Backoff(first_s=0.1, limit_s=2.0, jitter=0.5)
_WELCOME_S: Final = 10.0
_USUAL_LEASE_S: Final = 15.0
_TOGETHER: Final = 256 << 10  # bytes of several messages in one: each costs both sides a turn of gRPC


class LinkOwner(Protocol):
    """What a link asks and tells. Called on the link's loop."""

    def hello(self) -> bpb.PullRequest: ...

    def welcomed(self, link: BrokerLink, welcome: bpb.Welcome) -> None: ...

    def received(self, link: BrokerLink, reply: bpb.PullReply) -> None: ...

    def to_say(self, link: BrokerLink, *, progress: bool) -> Sequence[bpb.PullRequest]:
        """What the broker has not heard yet; with `progress`, of each item that it is held."""

    def disconnected(self, link: BrokerLink) -> None: ...

    def ended(self, link: BrokerLink) -> None:
        """It is over with this link, also where it was closed."""


class BrokerLink:
    """Belongs to one loop. `outstanding` are the credits that the broker has and has not used."""

    def __init__(self, endpoint: pb.Endpoint, owner: LinkOwner, credentials: grpc.ChannelCredentials | None) -> None:
        """`credentials` are used when the endpoint expects TLS."""
        self.endpoint = endpoint
        self.connected = False
        self.gone = False  # it left discovery: what is open goes on, nothing is opened again
        self.lease_s = _USUAL_LEASE_S
        self.max_result_bytes = 0
        self.outstanding = 0
        self.grant = 0  # what `outstanding` should be
        self.ahead = self.ahead_said = 0  # how many of the replica's places are for items that wait there
        self._owner = owner
        self._credentials = credentials
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def journals(self) -> Sequence[str]:
        return self.endpoint.journals

    @property
    def has_ended(self) -> bool:
        return self._task is not None and self._task.done()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"pull from {self.endpoint.id}")
        self._task.add_done_callback(lambda _: self._owner.ended(self))

    def wake(self) -> None:
        """There may be something to say."""
        self._wake.set()

    def listed(self, endpoint: pb.Endpoint) -> None:
        """The record of the endpoint, which is in discovery (again)."""
        self.endpoint = endpoint
        self.gone = False
        self._wake.set()

    def leave(self) -> None:
        """The endpoint is gone from discovery."""
        self.gone = True
        self._wake.set()

    async def close(self) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)

    # ------------------------------------------------------------------------------------------------ in its task

    async def _run(self) -> None:
        failures = 0
        channel = self._channel()
        try:
            while not self.gone:
                try:
                    if await self._converse(channel):
                        failures = 0
                except (grpc.aio.AioRpcError, asyncio.TimeoutError) as error:
                    self._note(error, failures)
                failures += 1
                await self._pause(_BACKOFF.delay_s(failures))
        finally:
            await channel.close(None)

    def _channel(self) -> grpc.aio.Channel:
        address = self.endpoint.address
        if self.endpoint.tls:
            credentials = self._credentials or grpc.ssl_channel_credentials()
            return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)

    def _note(self, error: Exception, failures: int) -> None:
        text = error.details() if isinstance(error, grpc.aio.AioRpcError) else "no welcome in time"
        level = logging.DEBUG if failures or self.gone else logging.WARNING
        _LOG.log(level, "the broker is away", extra={"broker": self.endpoint.id, "error": text})

    async def _pause(self, pause_s: float) -> None:
        if not self.gone:
            self._wake.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await wait_for(self._left(), pause_s)

    async def _left(self) -> None:
        while not self.gone:
            self._wake.clear()
            await self._wake.wait()

    async def _converse(self, channel: grpc.aio.Channel) -> bool:
        """One connection, to its end. True where it began well. Raises `AioRpcError`, `TimeoutError`."""
        pull: Any = channel.stream_stream(_PULL, bpb.PullRequest.SerializeToString, bpb.PullReply.FromString)
        call = pull()
        speaking: asyncio.Task[None] | None = None
        try:
            await call.write(self._owner.hello())
            replies = aiter(call)
            first = await wait_for(anext(replies, None), _WELCOME_S)
            if first is None or not first.HasField("welcome"):
                return False
            self._begin(first.welcome)
            speaking = asyncio.create_task(self._speak(call))
            for reply in first.more:
                self._owner.received(self, reply)
            async for reply in replies:
                for one in (reply, *reply.more):
                    self._owner.received(self, one)
            return True
        except asyncio.InvalidStateError:  # a write met a call that had ended
            return False
        finally:
            self.connected, self.outstanding, self.ahead_said = False, 0, 0
            call.cancel()
            if speaking is not None:
                await cancel_and_wait(speaking)
            self._owner.disconnected(self)

    def _begin(self, welcome: bpb.Welcome) -> None:
        self.connected, self.outstanding, self.ahead_said = True, 0, 0
        self.lease_s = welcome.lease_s or _USUAL_LEASE_S
        self.max_result_bytes = welcome.max_result_bytes
        self._owner.welcomed(self, welcome)
        _LOG.info("pulls from a broker", extra={"broker": self.endpoint.id, "address": self.endpoint.address})

    async def _speak(self, call: Any) -> None:
        """Says what there is to say, and that it lives three times in each lease, until the call ends."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self.lease_s / 3
        try:
            while True:
                self._wake.clear()
                tick = loop.time() >= due
                if tick:
                    due = loop.time() + self.lease_s / 3
                said = self._owner.to_say(self, progress=tick)
                if tick and not said:
                    said = [bpb.PullRequest(credits=bpb.Credits())]  # it lives
                for message in _together(said):
                    await call.write(message)
                with contextlib.suppress(asyncio.TimeoutError):
                    await wait_for(self._wake.wait(), max(0.0, due - loop.time()))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            call.cancel()  # the reader ends with it, and says why


def _together(said: Sequence[bpb.PullRequest]) -> Iterator[bpb.PullRequest]:
    """The same in fewer messages."""
    first: bpb.PullRequest | None = None
    size = 0
    for message in said:
        size += message.ByteSize()
        if first is None or size > _TOGETHER:
            if first is not None:
                yield first
            first, size = bpb.PullRequest(), message.ByteSize()
            first.CopyFrom(message)
        else:
            first.more.append(message)
    if first is not None:
        yield first
