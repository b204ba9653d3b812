"""A replica that a test holds by the hand, over real gRPC."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import grpc.aio

from serving._proto import broker_pb2 as bpb
from serving._proto.broker_pb2_grpc import BrokerStub

_LIMIT_S = 120.0


class HandReplica:
    """From `connect` to `close`. What comes is taken in order by `next`."""

    def __init__(self, channel: grpc.aio.Channel, name: str = "r", process: str = "p", **hello: Any) -> None:
        self._stub: Any = BrokerStub(channel)  # type: ignore[no-untyped-call]
        self._came: deque[bpb.PullReply] = deque()
        self._hello = bpb.Hello(**{"replica": name, "process": process, "deployment": "worker", **hello})

    async def connect(self, *, more: int = 0) -> HandReplica:
        self._call = self._stub.Pull()
        self._came.clear()
        await self._call.write(bpb.PullRequest(hello=self._hello))
        self.welcome = (await self.next()).welcome
        if more:
            await self.credit(more)
        return self

    async def next(self) -> bpb.PullReply:
        if not self._came:
            reply = await asyncio.wait_for(self._call.read(), _LIMIT_S)
            assert isinstance(reply, bpb.PullReply), "the stream has ended"
            self._came.extend((reply, *reply.more))
        return self._came.popleft()

    async def work(self) -> bpb.Work:
        while not (reply := await self.next()).HasField("work"):
            assert reply.WhichOneof("message") in ("stop", "stored"), reply
        return reply.work

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        return await asyncio.wait_for(self._call.code(), _LIMIT_S), await self._call.details()

    async def say(self, **message: Any) -> None:
        await self._call.write(bpb.PullRequest(**message))

    async def credit(self, more: int) -> None:
        await self.say(credits=bpb.Credits(more=more))

    async def progress(self, work: bpb.Work, *bodies: bytes, first: int = 0, share: float = 0.0) -> None:
        parts = [bpb.Part(number=first + index, attempt=work.attempt, body=body) for index, body in enumerate(bodies)]
        await self.say(progress=bpb.Progress(item=work.item, attempt=work.attempt, progress=share, parts=parts))

    async def done(self, work: bpb.Work, answer: bytes = b"answer") -> None:
        await self.say(done=bpb.Done(item=work.item, attempt=work.attempt, result=bpb.Result(infer=answer)))

    async def finish(self, work: bpb.Work, answer: bytes = b"answer") -> bool:
        """Whether the broker wanted it."""
        await self.done(work, answer)
        while not (reply := await self.next()).HasField("stored"):
            assert reply.HasField("stop"), reply
        return reply.stored.wanted

    async def again(self, work: bpb.Work, *, untouched: bool = False) -> None:
        failure = bpb.Failure(code=14, message="it is full")
        await self.say(done=bpb.Done(item=work.item, attempt=work.attempt, again=failure, untouched=untouched))

    async def close(self) -> None:
        self._call.cancel()
        await self._call.code()
