"""The Ray calls of a master."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, Final, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from serving._proto import records_pb2 as pb
from serving.errors import DataLoss, Unavailable
from serving.master.model import ActorRow, ActorState, Load, QueueLoad, Report
from serving.master.names import MasterName, ReplicaName, parse_replica, ray_namespace
from serving.master.ray_actors import cpp_library_path, read_actors
from serving.master.ray_groups import Groups
from serving.master.replica_config import LIBRARY_PATH, SPREAD, Launch, PythonActorClass, merged_env
from serving.store.records import decode
from serving.timeouts import wait_for

T = TypeVar("T")
_CALL_TIMEOUT_S: Final = 2.0


class RayLauncher:
    """Blocking calls of Ray run on one thread of its own, so that a head that is away cannot use up all threads."""

    def __init__(self, mesh: str, master: MasterName) -> None:
        self._namespace = ray_namespace(mesh)
        self._master = master
        self._kv_namespace = self._namespace.encode()
        self._key = f"mesh/master/{master}".encode()
        self._groups = Groups(self._namespace, self._is_mine)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray-calls")

    async def _call(self, function: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        except (RayError, ConnectionError, RuntimeError) as error:  # GCS away is a bare RuntimeError in some calls
            raise Unavailable(f"Ray does not answer: {error}") from error

    def _is_mine(self, name: str) -> bool:
        parsed = parse_replica(name)
        return parsed is not None and parsed.app == self._master.app

    async def actors(self, *, dead: bool) -> tuple[ActorRow, ...]:
        def read() -> tuple[ActorRow, ...]:
            rows = read_actors(self._namespace, self._is_mine, dead=dead)
            if self._groups.lacks(_living(rows)):  # one that changes its state meanwhile may be in no part of this read
                self._groups.look(_living(read_actors(self._namespace, self._is_mine, dead=True)))
            return rows

        return await self._call(read)

    async def create(self, launch: Launch) -> None:
        await self._call(lambda: _create(self._namespace, launch, self._groups))

    async def report(self, name: ReplicaName) -> Report:
        record = _decoded(name, await self._ask(name, "Status"))
        return Report(
            pid=record.pid,
            state=record.state,
            reason=record.reason,
            address=record.address,
            health_address=record.health_address,
            registered=record.registered,
            revision=record.revision,
            updating_to=record.updating_to,
            failed_revision=record.failed_revision,
            failed_reason=record.failed_reason,
            failed_updates=record.failed_updates,
            load=_load(record),
        )

    async def update(self, name: ReplicaName, update_json: str) -> None:
        record = _decoded(name, await self._ask(name, "Update", update_json))
        if record.refused:
            raise Unavailable(f"{name} takes no update: {record.refused}")

    async def drain(self, name: ReplicaName, limit_s: float) -> None:
        await self._ask(name, "Drain", float(limit_s))

    async def kill(self, name: ReplicaName, *, restart: bool) -> None:
        def end() -> None:
            with contextlib.suppress(ValueError):  # it is gone
                ray.kill(ray.get_actor(str(name), namespace=self._namespace), no_restart=not restart)
            if not restart:
                self._groups.remove(str(name))

        await self._call(end)

    async def remember(self, state: bytes) -> None:
        await self._call(lambda: _kv().internal_kv_put(self._key, state, True, self._kv_namespace))

    async def recall(self) -> bytes | None:
        kept: bytes | None = await self._call(lambda: _kv().internal_kv_get(self._key, self._kv_namespace))
        return kept

    async def forget(self) -> None:
        await self._call(lambda: _kv().internal_kv_del(self._key, False, self._kv_namespace))

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def _ask(self, name: ReplicaName, method: str, *arguments: object) -> str:
        """Calls a method of a replica. The answer is awaited off the thread: a hung replica holds up nobody else."""

        def send() -> Any:
            try:
                handle = ray.get_actor(str(name), namespace=self._namespace)
            except ValueError as error:
                raise Unavailable(f"there is no actor {name}") from error
            return getattr(handle, method).remote(*arguments)

        reference = await self._call(send)
        try:
            answer = await wait_for(asyncio.wrap_future(reference.future()), _CALL_TIMEOUT_S)
        except asyncio.TimeoutError as error:
            raise Unavailable(f"{name} did not answer {method} within {_CALL_TIMEOUT_S:g} s") from error
        except (RayError, GetTimeoutError) as error:
            raise Unavailable(f"{name} did not answer {method}: {error}") from error
        return str(answer)


def _living(rows: Iterable[ActorRow]) -> set[str]:
    return {row.name for row in rows if row.state is not ActorState.DEAD}


def _decoded(name: ReplicaName, text: str) -> pb.ReplicaReport:
    try:
        return decode(pb.ReplicaReport, text.encode())
    except DataLoss as error:
        raise Unavailable(f"{name} answered something else than a report: {error.message}") from error


def _load(record: pb.ReplicaReport) -> Load | None:
    """None from a process that does not say."""
    if not record.HasField("load"):
        return None
    told = record.load
    return Load(
        in_flight=record.in_flight,
        requests=told.requests,
        within=tuple(zip(told.bounds_s, told.within, strict=False)),
        cpu_s=told.cpu_s,
        waiting=told.waiting,
        failed=told.failed,
        streams=told.streams,
        failed_streams=told.failed_streams,
        queues=_queues(told),
    )


def _queues(told: pb.ReplicaLoad) -> dict[str, QueueLoad] | None:
    if told.reading or not told.queues:
        return None
    return {
        queue.deployment: QueueLoad(
            queue.queued,
            queue.running,
            queue.oldest_age_s,
            queue.work_s,
            queue.places,
            queue.replicas,
            dict(queue.longest_run_s),
        )
        for queue in told.queues
    }


def _create(namespace: str, launch: Launch, groups: Groups) -> None:
    if launch.log_file is not None:
        launch.log_file.parent.mkdir(parents=True, exist_ok=True)  # of use where nodes share the mesh's folder
    environment = dict(launch.env)
    if LIBRARY_PATH in environment:  # it replaces the worker's own, which finds Ray's C++ library
        environment = merged_env({LIBRARY_PATH: cpp_library_path()}, environment)
    options: dict[str, Any] = {
        "name": str(launch.name),
        "namespace": namespace,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": launch.num_cpus,
        "num_gpus": launch.num_gpus,
        "resources": dict(launch.resources),
        "max_restarts": launch.max_restarts,
    }
    if launch.memory_bytes:
        options["memory"] = launch.memory_bytes
    options |= _scheduling(launch, groups)
    if environment:
        options["runtime_env"] = {"env_vars": environment}
    _actor_class(launch).options(**options).remote(launch.config_json)


def _scheduling(launch: Launch, groups: Groups) -> dict[str, Any]:
    """Ray's options for the nodes. What is preferred gives way where there is no room; labels never do."""
    if launch.bundles:
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(groups.of(launch), 0, True)}
    options: dict[str, Any] = {}
    if launch.node_labels:
        options["label_selector"] = dict(launch.node_labels)
    if launch.strategy == SPREAD:
        options["scheduling_strategy"] = "SPREAD"
    elif launch.near:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(launch.near, soft=True)
    return options


def _actor_class(launch: Launch) -> Any:
    if isinstance(launch.actor, PythonActorClass):
        return ray.remote(getattr(import_module(launch.actor.module), launch.actor.name))
    return ray.cross_language.cpp_actor_class(launch.actor.factory, launch.actor.name)


def _kv() -> Any:
    """The key-value store in GCS: lives exactly as long as the detached actors do."""
    return ray._private.worker.global_worker.gcs_client
