"""What a broker tells the master of its queues, from which replicas are scaled."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

from serving._proto import records_pb2 as pb
from serving.broker.home import Home
from serving.broker.items import State
from serving.broker.statistics import statistics

_LONG_RUN_S: Final = 10.0
_MOST_BUSY: Final = 1000


def broker_load(home: Home, deployments: Collection[str]) -> pb.ReplicaLoad:
    """From any thread. A deployment of which a journal has seen nothing end yet takes the times of the others."""
    load = pb.ReplicaLoad(cpu_s=time.process_time(), reading=home.reading)
    for queue in statistics(home, deployments).queues:
        load.queues.add(
            deployment=queue.deployment,
            queued=queue.queued,
            running=queue.running,
            oldest_age_s=queue.oldest_age_s,
            work_s=queue.queued * _mean_s(home, queue.deployment),
            places=queue.running + queue.credits,
            replicas=queue.replicas,
            busy=_busy(home, queue.deployment),
        )
    return load


def _busy(home: Home, deployment: str) -> list[str]:
    """Replicas that would not have done what they run by the end of a drain, as far as its time so far tells."""
    found: set[str] = set()
    for shard in list(home.shards.values()):
        since = shard.clock.now() - _LONG_RUN_S
        items = [running.item for running in list(shard.running.values())]
        found.update(
            item.replica
            for item in items
            if item.state is State.RUNNING and item.deployment == deployment and item.started <= since
        )
    return sorted(found)[:_MOST_BUSY]


def _mean_s(home: Home, deployment: str) -> float:
    """0.0 while no journal knows."""
    times = [shard.queues.mean_s(deployment) for shard in list(home.shards.values())]
    known = [seconds for seconds in times if seconds > 0]
    return sum(known) / len(known) if known else 0.0
