"""A shard with a real journal, and who hands its items to replicas."""

from __future__ import annotations

import asyncio

from serving._proto import broker_pb2 as bpb
from serving.broker.items import State
from serving.broker.pulls import Puller, Pulls
from tests.support.shards import HeldShard

BODY = bpb.Request(infer=b"ask").SerializeToString()


class Handed:
    """A shard whose listener is the `Pulls` under test."""

    def __init__(self, held: HeldShard, pulls: Pulls) -> None:
        self.held = held
        self.pulls = pulls

    def replica(self, name: str, more: int, generation: int = 1) -> Puller:
        puller = Puller(name, "p", "it", generation)
        self.pulls.open(puller)
        self.pulls.add_credits(puller, more)
        return puller

    async def hand_out(self, items: int) -> None:
        for _ in range(items):
            await self.held.submit(BODY)
        self.pulls.waiting()
        await asyncio.sleep(0)
        await self.held.settle()

    async def end(self, puller: Puller, item: str, attempt: int, *, back: bool = False) -> None:
        """The replica says its result, or (`back`) gives it back untouched."""
        number, shard = int(item.rpartition(".")[2]), self.held.shard
        if back:
            shard.again(number, attempt, "it waited", lambda _: None, untouched=True)
        else:
            shard.done(number, attempt, State.SUCCEEDED, b"", lambda _: None)
        puller.let_go((item, attempt))
        await self.held.settle()


def sent(puller: Puller) -> list[str]:
    """What is on its way to the replica: items, or what else a message is."""
    kinds = [bpb.PullReply.FromString(data) for data in puller.outbox]
    return [reply.work.item if reply.HasField("work") else str(reply.WhichOneof("message")) for reply in kinds]
