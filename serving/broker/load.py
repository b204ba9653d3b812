"""What a broker tells the master of its queues, from which replicas are scaled."""

from __future__ import annotations

import time
from collections.abc import Collection

from serving._proto import records_pb2 as pb
from serving.broker.home import Home
from serving.broker.statistics import statistics


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
        )
    return load


def _mean_s(home: Home, deployment: str) -> float:
    """0.0 while no journal knows."""
    times = [shard.queues.mean_s(deployment) for shard in list(home.shards.values())]
    known = [seconds for seconds in times if seconds > 0]
    return sum(known) / len(known) if known else 0.0
