"""A broker that does what a test says, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from serving._proto import broker_pb2 as bpb
from serving._proto import records_pb2 as pb
from serving._proto.broker_pb2_grpc import BrokerServicer, add_BrokerServicer_to_server


class ScriptedBroker(BrokerServicer):
    """Notes what replicas say; sends what `send` is given. `credits` is what it was given and has not used."""

    def __init__(self, name: str, *journals: str, lease_s: float = 15.0, max_result_bytes: int = 0) -> None:
        self.name = name
        self.journals = journals
        self.welcome = bpb.Welcome(lease_s=lease_s, max_result_bytes=max_result_bytes)
        self.hellos: list[bpb.Hello] = []
        self.said: list[bpb.PullRequest] = []
        self.credits = 0
        self._out: asyncio.Queue[bpb.PullReply | None] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None
        self.port = 0
        self.submitted: list[bpb.SubmitRequest] = []
        self.asked: list[bpb.GetRequest] = []
        self.refuse: tuple[grpc.StatusCode, str] | None = None
        self.lose = 0
        self.keys: set[str] = set()
        self.state = bpb.QUEUED
        self.drained = False
        self.per_replica = 0
        self.ahead = 0  # of its credits, as it was told last

    async def start(self) -> ScriptedBroker:
        server = self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_BrokerServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        return self

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    @property
    def endpoint(self) -> pb.Endpoint:
        return pb.Endpoint(
            id=self.name,
            address=f"127.0.0.1:{self.port}",
            protocol="broker-grpc",
            role="broker",
            state="ready",
            before=["it"],
            journals=self.journals,
            drained=self.drained,
            per_replica=self.per_replica,
        )

    def send(self, **reply: Any) -> None:
        if "work" in reply:
            self.credits -= 1
        self._out.put_nowait(bpb.PullReply(**reply))

    def work(self, item: str, attempt: int = 1, *, do: str = "", **more: Any) -> None:
        """Sends work whose request's model name is `do`."""
        request = bpb.Request(infer=do.encode())
        self.send(work=bpb.Work(item=item, attempt=attempt, request=request, **more))

    def hang_up(self) -> None:
        """Ends the connection."""
        self._out.put_nowait(None)

    def done(self) -> list[bpb.Done]:
        return [one.done for one in self.said if one.HasField("done")]

    def progress(self) -> list[bpb.Progress]:
        return [one.progress for one in self.said if one.HasField("progress")]

    async def Pull(  # noqa: N802
        self, requests: AsyncIterator[bpb.PullRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bpb.PullReply]:
        first = await anext(requests)
        self.hellos.append(first.hello)
        self.credits = 0
        yield bpb.PullReply(welcome=self.welcome)
        listening = asyncio.create_task(self._listen(requests))
        try:
            while (reply := await self._out.get()) is not None:
                yield reply
            await context.abort(grpc.StatusCode.UNAVAILABLE, "hung up")
        finally:
            listening.cancel()

    # ------------------------------------------------------------------------------------------------ for clients

    async def Submit(  # noqa: N802
        self, request: bpb.SubmitRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> bpb.SubmitReply:
        """Takes it, unless `refuse` says otherwise; `lose` takes it and breaks off."""
        self.submitted.append(request)
        if self.refuse is not None:
            code, words = self.refuse
            await context.abort(code, words, (("retry-after-ms", "1500"),))
        known = request.idempotency_key in self.keys
        self.keys.add(request.idempotency_key)
        if self.lose:
            self.lose -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return bpb.SubmitReply(ticket=f"{self.journals[0]}.1.secret", repeated=known)

    async def Get(  # noqa: N802
        self, request: bpb.GetRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> bpb.Item:
        journal = request.ticket.partition(".")[0]
        self.asked.append(request)
        if journal not in self.journals:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the journal moves to another broker")
        return bpb.Item(id=f"{journal}.1", state=self.state)

    async def _listen(self, requests: AsyncIterator[bpb.PullRequest]) -> None:
        async for first in requests:
            for request in (first, *first.more):
                self.said.append(request)
                self.credits += request.credits.more
                if request.HasField("credits"):
                    self.ahead = request.credits.ahead
