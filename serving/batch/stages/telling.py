"""What workers tell their driver, through the cluster's own store of keys: no process of its own, and small."""

from __future__ import annotations

import json
from typing import Final

from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_list,
    _internal_kv_put,
)

from serving.batch.stages.report import WorkerTimes

_NAMESPACE: Final = b"mesh_batch"


def tell(processor: str, worker: str, times: WorkerTimes) -> None:
    """Blocks for a round trip. Replaces what the worker has told before."""
    value = json.dumps(times.as_dict()).encode()
    _internal_kv_put(f"{processor}/{worker}", value, overwrite=True, namespace=_NAMESPACE)


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
