"""Ray Serve's sides of `broker_peers`: replicas behind a handle with one of its routers, or consumers of Celery tasks.

Runs in `benchmarks.queue_client`, on the cluster of RAY_ADDRESS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import ray
from ray import serve
from ray.serve.config import DeploymentActorConfig, RequestRouterConfig

from benchmarks.broker_simulation import REPLICAS, Request
from benchmarks.queue_load import Send

_QUIET: Final = {"enable_access_log": False, "log_level": "WARNING"}
_ROUTERS: Final = "ray.serve.experimental"
_CAPACITY: Final = "capacity"
_TASK: Final = "sleep"
_QUEUE: Final = "bench"
_WAIT_S: Final = 300.0  # longer than any request waits


class Sleeper:
    async def __call__(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds


def _options() -> dict[str, Any]:
    """One request at a time, without limits of what waits."""
    return {
        "num_replicas": REPLICAS,
        "max_ongoing_requests": 1,
        "max_queued_requests": -1,
        "ray_actor_options": {"num_cpus": 0},
        "logging_config": _QUIET,
    }


@contextlib.contextmanager
def _serving() -> Iterator[None]:
    ray.init(log_to_driver=False, logging_level="warning")
    serve.start(proxy_location="Disabled", logging_config=_QUIET)
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


@contextlib.asynccontextmanager
async def _routed(**options: Any) -> AsyncIterator[Send]:
    """Through a handle: Serve's shortest way, without its ingress."""
    with _serving():
        deployment = serve.deployment(Sleeper).options(**_options(), **options)
        handle = await asyncio.to_thread(serve.run, deployment.bind(), name="sleeper", route_prefix=None)

        async def send(request: Request) -> None:
            if await handle.remote(request.takes_s) != request.takes_s:
                raise ValueError(f"request {request.number} was answered with something else")

        yield send


def round_robin() -> contextlib.AbstractAsyncContextManager[Send]:
    router = RequestRouterConfig(request_router_class=f"{_ROUTERS}.round_robin_router.RoundRobinRouter")
    return _routed(request_router_config=router)


def capacity_queue() -> contextlib.AbstractAsyncContextManager[Send]:
    router = RequestRouterConfig(
        request_router_class=f"{_ROUTERS}.capacity_queue_router.CapacityQueueRouter",
        request_router_kwargs={"capacity_queue_actor_name": _CAPACITY},
    )
    queue = DeploymentActorConfig(
        name=_CAPACITY,
        actor_class=f"{_ROUTERS}.capacity_queue:CapacityQueue",
        init_kwargs={"acquire_timeout_s": _WAIT_S, "token_ttl_s": None},
        actor_options={"num_cpus": 0},
    )
    return _routed(request_router_config=router, deployment_actors=[queue])


@contextlib.asynccontextmanager
async def task_consumer(redis: str) -> AsyncIterator[Send]:
    """Workers take one task at a time, as Celery advises for long ones. Redis's channels tell ends, as Celery's do."""
    from ray.serve.schema import CeleryAdapterConfig, TaskProcessorConfig
    from ray.serve.task_consumer import instantiate_adapter_from_config, task_handler
    from ray.serve.task_consumer import task_consumer as consumer

    celery = CeleryAdapterConfig(
        broker_url=f"{redis}/0", backend_url=f"{redis}/1", app_custom_config={"worker_prefetch_multiplier": 1}
    )
    config = TaskProcessorConfig(queue_name=_QUEUE, adapter_config=celery)

    @consumer(task_processor_config=config)
    class Consumer:
        @task_handler(name=_TASK)  # type: ignore[untyped-decorator]
        def sleep(self, seconds: float) -> float:
            time.sleep(seconds)
            return seconds

    with _serving():
        deployment = serve.deployment(Consumer).options(**_options())
        await asyncio.to_thread(serve.run, deployment.bind(), name="consumers", route_prefix=None)
        adapter = instantiate_adapter_from_config(config)
        with _Ends(f"{redis}/1", asyncio.get_running_loop()) as ends:

            async def send(request: Request) -> None:
                task = await asyncio.to_thread(adapter.enqueue_task_sync, _TASK, args=[request.takes_s])
                if await ends.of(task.id) != request.takes_s:
                    raise ValueError(f"task {request.number} ended with something else")

            yield send


class _Ends:
    """Results of Celery's tasks, from the channel on which its backend publishes each."""

    _PREFIX: Final = "celery-task-meta-"

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        import redis  # Celery's, in a folder of its own

        client: Any = redis.Redis.from_url(url)
        self._channel = client.pubsub(ignore_subscribe_messages=True)
        self._channel.psubscribe(f"{self._PREFIX}*")
        self._ended = threading.Event()
        self._loop = loop
        self._futures: dict[str, asyncio.Future[Any]] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> _Ends:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._channel.close()

    async def of(self, task: str) -> Any:
        """It may have ended before this is asked."""
        try:
            return await self._future(task)
        finally:
            del self._futures[task]

    def _future(self, task: str) -> asyncio.Future[Any]:
        return self._futures.setdefault(task, self._loop.create_future())

    def _listen(self) -> None:
        while not self._ended.is_set():
            message = self._channel.get_message(timeout=0.1)
            if message is not None:
                self._loop.call_soon_threadsafe(self._tell, json.loads(message["data"]))

    def _tell(self, said: dict[str, Any]) -> None:
        future = self._future(said["task_id"])
        if said["status"] == "SUCCESS":
            future.set_result(said["result"])
        elif said["status"] in ("FAILURE", "REVOKED"):
            future.set_exception(RuntimeError(f"task {said['task_id']}: {said['result']}"))


SIDES: Final = {"serve_round_robin": round_robin, "serve_capacity_queue": capacity_queue, "serve_celery": task_consumer}
