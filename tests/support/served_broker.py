"""A broker in the test's own process, and a client of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc.aio
from prometheus_client import CollectorRegistry

from serving._proto import broker_pb2 as bpb
from serving._proto.broker_pb2_grpc import BrokerStub
from serving.broker.server import BrokerServer
from serving.broker.settings import BrokerSettings
from tests.support.pulling import HandReplica

LEASE_S = 30.0  # a machine that stands still for some seconds takes no item


class Served:
    """A broker and a client of it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        given: dict[str, Any] = {"lease_s": LEASE_S, "sync": "normal", **changes}
        self.registry = CollectorRegistry()
        self.broker = BrokerServer(BrokerSettings(folder, ("worker", "other"), **given), self.registry)

    async def __aenter__(self) -> Served:
        port = await self.broker.start("127.0.0.1", 0, None)
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.stub: Any = BrokerStub(self.channel)  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.close()
        await self.channel.close()

    async def submit(self, body: bytes = b"ask", **fields: Any) -> str:
        return str((await self.stub.Submit(submit(body, **fields))).ticket)

    async def get(self, ticket: str, wait_s: float = 0.0) -> bpb.Item:
        return await self.stub.Get(bpb.GetRequest(ticket=ticket, wait_s=wait_s))

    async def queue(self) -> bpb.QueueStatistics:
        return (await self.stub.Statistics(bpb.StatisticsRequest())).queues[0]

    async def drain(self, *, undo: bool = False) -> bpb.DrainReply:
        return await self.stub.Drain(bpb.DrainRequest(undo=undo))

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    async def pulling(self, more: int = 1, name: str = "r", **hello: Any) -> HandReplica:
        return await HandReplica(self.channel, name, **hello).connect(more=more)


def submit(body: bytes = b"ask", **fields: Any) -> bpb.SubmitRequest:
    return bpb.SubmitRequest(**{"deployment": "worker", "request": bpb.Request(infer=body), **fields})
