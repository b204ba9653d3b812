"""What workers tell: to their driver through the cluster's own store of keys, and to Prometheus through Ray's agent."""

from __future__ import annotations

import json
from typing import Final

from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_list,
    _internal_kv_put,
)
from ray.util.metrics import Counter, Gauge

from serving.batch.stages.report import WorkerTimes

_NAMESPACE: Final = b"mesh_batch"
_COUNTED: Final = {
    "rows": ("mesh_batch_rows", "Rows that came to a worker."),
    "answers": ("mesh_batch_answers", "Rows with an answer."),
    "faults": ("mesh_batch_faults", "Rows that were written with their error."),
    "same": ("mesh_batch_same_rows", "Rows whose answer was another one's."),
    "attempts": ("mesh_batch_attempts", "Requests to endpoints."),
    "retries": ("mesh_batch_retries", "Requests after a failure of an endpoint."),
    "refusals": ("mesh_batch_refusals", "Requests that an endpoint had no room for."),
    "idle_s": ("mesh_batch_waiting_for_rows_seconds", "Endpoints had room, and no row was there."),
    "window_s": ("mesh_batch_waiting_for_windows_seconds", "Endpoints had as many rows as their windows allow."),
    "endpoint_s": ("mesh_batch_waiting_for_replicas_seconds", "Rows waited, and no endpoint took any."),
}


class Teller:
    """Of one worker of a processor."""

    def __init__(self, processor: str, worker: str) -> None:
        self._key = f"{processor}/{worker}"
        self._counters = {name: Counter(metric, text) for name, (metric, text) in _COUNTED.items()}
        self._window = Gauge("mesh_batch_window", "Rows that may be at all endpoints at once.")
        self._before: dict[str, float] = {}

    def __call__(self, times: WorkerTimes) -> None:
        """Blocks for a round trip. Replaces what the worker has told before."""
        for name, counter in self._counters.items():
            new = times.sender.get(name, 0.0) - self._before.get(name, 0.0)
            if new > 0:
                counter.inc(new)
        self._before = dict(times.sender)
        self._window.set(float(sum(times.limits.values())))
        _internal_kv_put(self._key, json.dumps(times.as_dict()).encode(), overwrite=True, namespace=_NAMESPACE)


def told(processor: str) -> list[WorkerTimes]:
    """Of all its workers, also of those that have ended."""
    found = []
    for key in _internal_kv_list(f"{processor}/", namespace=_NAMESPACE):
        value = _internal_kv_get(key, namespace=_NAMESPACE)
        if value is not None:
            found.append(WorkerTimes(**json.loads(value)))
    return found


def forget(processor: str) -> None:
    _internal_kv_del(f"{processor}/", del_by_prefix=True, namespace=_NAMESPACE)
