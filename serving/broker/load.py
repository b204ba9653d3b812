"""What a broker tells the master of its queues, from which replicas are scaled."""

from __future__ import annotations

import heapq
import time
from collections.abc import Collection
from operator import itemgetter
from typing import Final

from serving._proto import records_pb2 as pb
from serving.broker.home import Home
from serving.broker.items import State
from serving.broker.statistics import statistics

_MOST_REPLICAS: Final = 1000


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
            longest_run_s=_longest_run_s(home, queue.deployment),
        )
    return load


def _longest_run_s(home: Home, deployment: str) -> dict[str, float]:
    """By replica: of the item that it has run for longest. The master knows what a drain would cut off."""
    found: dict[str, float] = {}
    for shard in list(home.shards.values()):
        now = shard.clock.now()
        for item in [running.item for running in list(shard.running.values())]:
            if item.state is State.RUNNING and item.deployment == deployment:
                found[item.replica] = max(found.get(item.replica, 0.0), now - item.started)
    return dict(heapq.nlargest(_MOST_REPLICAS, found.items(), key=itemgetter(1)))


def _mean_s(home: Home, deployment: str) -> float:
    """0.0 while no journal knows."""
    times = [shard.queues.mean_s(deployment) for shard in list(home.shards.values())]
    known = [seconds for seconds in times if seconds > 0]
    return sum(known) / len(known) if known else 0.0
