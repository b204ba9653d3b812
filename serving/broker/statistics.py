"""What a broker says of its queues, for `Statistics` and for metrics."""

from __future__ import annotations

from collections.abc import Collection

from serving._proto import broker_pb2 as pb
from serving.broker.home import Home
from serving.broker.items import State


def statistics(home: Home, deployments: Collection[str]) -> pb.StatisticsReply:
    """Of all journals together; deployments that are told to the broker, and those of which something is kept."""
    shards = list(home.shards.values())
    named = dict.fromkeys(deployments)
    for shard in shards:
        named.update(dict.fromkeys(list(shard.queues.by_deployment)))
    reply = pb.StatisticsReply(
        items=sum(shard.journal.items for shard in shards),
        bytes=sum(shard.journal.bytes for shard in shards),
        journals=sorted(home.shards),
        drained=home.draining.on,
    )
    for deployment in named:
        _add_queue(reply, home, deployment)
    return reply


def _add_queue(reply: pb.StatisticsReply, home: Home, deployment: str) -> None:
    pullers = home.pulls.of(deployment)
    made = reply.queues.add(
        deployment=deployment,
        replicas=len(pullers),
        credits=sum(max(0, puller.credits) for puller in pullers),
    )
    for shard in list(home.shards.values()):
        queue = shard.queues.by_deployment.get(deployment)
        if queue is not None:
            made.queued += len(queue)
            made.queued_bytes += queue.waiting_bytes
            made.oldest_age_s = max(made.oldest_age_s, queue.oldest(shard.clock.now()))
        made.running += sum(
            running.item.state is State.RUNNING and running.item.deployment == deployment
            for running in list(shard.running.values())
        )
        made.dead += shard.queues.dead[deployment]
        counted = shard.queues.counters(deployment)
        made.submitted += counted.submitted
        made.succeeded += counted.succeeded
        made.failed += counted.failed
        made.requeued += counted.requeued
