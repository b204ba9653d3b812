"""When a mesh can take applications: its keepers answer, and each cluster's agent has written its record."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Final

from serving.errors import Cancelled, DeadlineExceeded, StoreUnavailable
from serving.local.plan import MeshPlan
from serving.store import EtcdClient, keys
from serving.timeouts import wait_for

_POLL_S: Final = 0.1
_ASK_S: Final = 2.0


def wait_until_serving(
    plan: MeshPlan, keepers: int, timeout_s: float, stop: threading.Event, check: Callable[[], None]
) -> None:
    """Returns when `keepers` keepers and every cluster of the plan have their records in etcd, and the gateway listens.

    `check` is called between looks and raises to give up. Raises `DeadlineExceeded` that names what is missing, and
    `Cancelled` when `stop` is set.
    """
    asyncio.run(_wait(plan, keepers, time.monotonic() + timeout_s, stop, check))


async def _wait(
    plan: MeshPlan, keepers: int, deadline_s: float, stop: threading.Event, check: Callable[[], None]
) -> None:
    client = EtcdClient(plan.etcd)
    try:
        while True:
            check()
            missing = await _missing(client, plan, keepers)
            if not missing:
                return
            if stop.is_set():
                raise Cancelled("the mesh was ended while it started")
            if time.monotonic() > deadline_s:
                raise DeadlineExceeded(f"still missing: {', '.join(missing)}; see the logs in {plan.mesh_dir / 'logs'}")
            await asyncio.sleep(_POLL_S)
    finally:
        await client.close()


async def _missing(client: EtcdClient, plan: MeshPlan, keepers: int) -> list[str]:
    try:
        found = len((await client.get_prefix(keys.KEEPER_ELECTION)).kvs)
        known = {keys.parse_cluster(kv.key) for kv in (await client.get_prefix(keys.CLUSTERS)).kvs}
    except StoreUnavailable as error:
        return [f"etcd ({error.message})"]
    missing = [f"{keepers - found} of {keepers} keepers"] if found < keepers else []
    missing += [f"the agent of cluster {cluster.name}" for cluster in plan.clusters if cluster.name not in known]
    if plan.gateway and not await _is_ready(plan.gateway):
        missing.append(f"the gateway on {plan.gateway}")
    if plan.gateway_grpc and not await _listens(plan.gateway_grpc):
        missing.append(f"the gRPC gateway on {plan.gateway_grpc}")
    return missing


async def _is_ready(address: str) -> bool:
    """True when a gateway answers there that it knows the models."""
    try:
        return await asyncio.to_thread(_asked, f"http://{address}/health")
    except (OSError, ValueError, HTTPException):
        return False


async def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await wait_for(asyncio.open_connection(host, int(port)), _ASK_S)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True


def _asked(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=_ASK_S) as answer:
        found = json.load(answer)
    return isinstance(found, dict) and found.get("status") == "ready"
