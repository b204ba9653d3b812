"""The client for code without asyncio: the same calls, which wait for their answer. For any number of threads."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import Unpack

from serving._proto import keeper_pb2 as kpb
from serving._proto import records_pb2 as pb
from serving.discovery.client_config import ClientConfig, ClientStats
from serving.errors import FailedPrecondition
from serving.routing import Rank
from serving.sdk import calls
from serving.sdk._app_names import AppName
from serving.sdk._client_loop import ClientLoop
from serving.sdk.api_keys import ApiKeys
from serving.sdk.blocking_queue import BlockingQueue, BlockingTicket
from serving.sdk.blocking_routes import BlockingRoutes
from serving.sdk.client import (
    CONTROL_TIMEOUT_S,
    DEPLOY_TIMEOUT_S,
    INFER_TIMEOUT_S,
    AsyncMeshClient,
)
from serving.sdk.connection import Connection
from serving.sdk.queue import SubmitOptions
from serving.sdk.spec import Application
from serving.sdk.status import AppEvent, AppStatus, DeployResult, ModelMetadata
from serving.sdk.tensors import Array, Parameter
from serving.types import ROLE_DIRECT

T = TypeVar("T")
Notify = Callable[[str], None]


class MeshClient:
    """A client of one mesh that blocks. Safe to use from many threads and in notebooks; `with` closes it.

    The methods are those of `AsyncMeshClient`; see there for what they mean and raise. Ctrl-C cancels the call.
    """

    def __init__(
        self,
        connection: Connection | None = None,
        *,
        interceptors: Sequence[calls.Interceptor] = (),
        client_config: ClientConfig | None = None,
        rank: Rank | None = None,
    ) -> None:
        """As `AsyncMeshClient`; `interceptors` run on the client's own thread."""
        self._client = AsyncMeshClient(connection, interceptors=interceptors, client_config=client_config, rank=rank)
        self._lock = threading.Lock()
        self._loop: ClientLoop | None = None
        self._closed = False
        self._running: set[asyncio.Task[Any] | None] = set()  # of the loop's thread
        self.routes = BlockingRoutes(self._client.routes, self._wait)
        self.queue = BlockingQueue(self._client.queue, self._wait)

    @property
    def keys(self) -> ApiKeys:
        """API keys of the mesh's gateways."""
        return ApiKeys(self._client.keys, self._wait)

    @property
    def connection(self) -> Connection:
        return self._client.connection

    def __enter__(self) -> MeshClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what runs and closes every connection. May be called more than once.

        Calls of other threads that still wait raise `FailedPrecondition`, requests `Unavailable`.
        """
        with self._lock:
            if self._loop is not None and self._loop.owns_this_thread():
                raise FailedPrecondition("a MeshClient cannot be closed on its own thread, by an interceptor")
            loop, self._loop, self._closed = self._loop, None, True
        if loop is not None:
            try:
                loop.submit(self._end()).result()
            finally:
                loop.release()

    async def _end(self) -> None:
        """The loop stops after this: what still ran then would never answer."""
        try:
            await self._client.close()
        finally:
            running = [task for task in self._running if task is not None]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    # -------------------------------------------------------------------------------------------- applications

    def deploy(
        self,
        app: Application,
        *,
        wait: bool = False,
        timeout_s: float = DEPLOY_TIMEOUT_S,
        if_revision: int = 0,
        dry_run: bool = False,
        author: str = "",
        on_progress: Notify | None = None,
    ) -> DeployResult:
        """See `AsyncMeshClient.deploy`; `on_progress` is called on this thread."""
        return self._with_progress(
            lambda notify: self._client.deploy(
                app,
                wait=wait,
                timeout_s=timeout_s,
                if_revision=if_revision,
                dry_run=dry_run,
                author=author,
                on_progress=notify,
            ),
            on_progress,
        )

    def status(self, app: AppName, *, timeout_s: float = CONTROL_TIMEOUT_S) -> AppStatus:
        """See `AsyncMeshClient.status`."""
        return self._wait(self._client.status(app, timeout_s=timeout_s))

    def list(self, namespace: str = "", *, timeout_s: float = CONTROL_TIMEOUT_S) -> tuple[AppStatus, ...]:
        """See `AsyncMeshClient.list`."""
        return self._wait(self._client.list(namespace, timeout_s=timeout_s))

    def delete(self, app: AppName, *, wait: bool = False, timeout_s: float = DEPLOY_TIMEOUT_S) -> None:
        """See `AsyncMeshClient.delete`."""
        self._wait(self._client.delete(app, wait=wait, timeout_s=timeout_s))

    def watch(self, app: AppName = "", *, namespace: str = "") -> Iterator[AppEvent]:
        """See `AsyncMeshClient.watch`; ends when the loop over it does."""
        events = self._client.watch(app, namespace=namespace)
        try:
            while True:
                try:
                    yield self._wait(_next(events))
                except StopAsyncIteration:
                    return
        finally:
            with contextlib.suppress(FailedPrecondition):  # closed meanwhile, and with it the events
                self._wait(_close(events))

    def revisions(self, app: AppName, *, timeout_s: float = CONTROL_TIMEOUT_S) -> tuple[pb.StoredSpec, ...]:
        """See `AsyncMeshClient.revisions`."""
        return self._wait(self._client.revisions(app, timeout_s=timeout_s))

    def rollback(
        self,
        app: AppName,
        to_revision: int = 0,
        *,
        wait: bool = False,
        timeout_s: float = DEPLOY_TIMEOUT_S,
        author: str = "",
        on_progress: Notify | None = None,
    ) -> DeployResult:
        """See `AsyncMeshClient.rollback`; `on_progress` is called on this thread."""
        return self._with_progress(
            lambda notify: self._client.rollback(
                app, to_revision, wait=wait, timeout_s=timeout_s, author=author, on_progress=notify
            ),
            on_progress,
        )

    def scale(
        self,
        app: AppName,
        deployment: str,
        *,
        least: int | None = None,
        most: int | None = None,
        wait: bool = False,
        timeout_s: float = DEPLOY_TIMEOUT_S,
        author: str = "",
        on_progress: Notify | None = None,
    ) -> DeployResult:
        """See `AsyncMeshClient.scale`; `on_progress` is called on this thread."""
        return self._with_progress(
            lambda notify: self._client.scale(
                app,
                deployment,
                least=least,
                most=most,
                wait=wait,
                timeout_s=timeout_s,
                author=author,
                on_progress=notify,
            ),
            on_progress,
        )

    def split(
        self,
        app: AppName,
        name: str,
        weights: Mapping[str, int],
        *,
        wait: bool = False,
        timeout_s: float = DEPLOY_TIMEOUT_S,
        author: str = "",
        on_progress: Notify | None = None,
    ) -> DeployResult:
        """See `AsyncMeshClient.split`; `on_progress` is called on this thread."""
        return self._with_progress(
            lambda notify: self._client.split(
                app, name, weights, wait=wait, timeout_s=timeout_s, author=author, on_progress=notify
            ),
            on_progress,
        )

    def promote_rollout(self, app: AppName, *, full: bool = False, timeout_s: float = CONTROL_TIMEOUT_S) -> bool:
        """See `AsyncMeshClient.promote_rollout`."""
        return self._wait(self._client.promote_rollout(app, full=full, timeout_s=timeout_s))

    def pause_rollout(self, app: AppName, *, timeout_s: float = CONTROL_TIMEOUT_S) -> bool:
        """See `AsyncMeshClient.pause_rollout`."""
        return self._wait(self._client.pause_rollout(app, timeout_s=timeout_s))

    def resume_rollout(self, app: AppName, *, timeout_s: float = CONTROL_TIMEOUT_S) -> bool:
        """See `AsyncMeshClient.resume_rollout`."""
        return self._wait(self._client.resume_rollout(app, timeout_s=timeout_s))

    def clusters(self, *, timeout_s: float = CONTROL_TIMEOUT_S) -> tuple[kpb.ClusterView, ...]:
        """See `AsyncMeshClient.clusters`."""
        return self._wait(self._client.clusters(timeout_s=timeout_s))

    def endpoints(self, app: AppName, *, role: str = ROLE_DIRECT) -> tuple[pb.Endpoint, ...]:
        """See `AsyncMeshClient.endpoints`."""
        return self._wait(self._client.endpoints(app, role=role))

    # -------------------------------------------------------------------------------------------- requests

    def infer(
        self,
        app: AppName,
        model: str,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] | None = None,
        version: str = "",
        deployment: str = "",
        timeout_s: float = INFER_TIMEOUT_S,
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        retry_safe: bool = True,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> dict[str, Array]:
        """See `AsyncMeshClient.infer`."""
        return self._wait(
            self._client.infer(
                app,
                model,
                inputs,
                outputs=outputs,
                version=version,
                deployment=deployment,
                timeout_s=timeout_s,
                request_id=request_id,
                parameters=parameters,
                retry_safe=retry_safe,
                metadata=metadata,
            )
        )

    def model_metadata(
        self,
        app: AppName,
        model: str,
        *,
        version: str = "",
        deployment: str = "",
        timeout_s: float = INFER_TIMEOUT_S,
    ) -> ModelMetadata:
        """See `AsyncMeshClient.model_metadata`."""
        return self._wait(
            self._client.model_metadata(app, model, version=version, deployment=deployment, timeout_s=timeout_s)
        )

    def submit(
        self,
        app: AppName,
        deployment: str,
        inputs: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> BlockingTicket:
        """See `AsyncMeshClient.submit`."""
        return BlockingTicket(self._wait(self._client.submit(app, deployment, inputs, **options)), self._wait)

    def ticket(self, text: str) -> BlockingTicket:
        """See `AsyncMeshClient.ticket`."""
        return BlockingTicket(self._client.ticket(text), self._wait)

    def is_stale(self, app: AppName) -> bool:
        """True while discovery does not answer, so that requests go to the endpoints known before."""
        return self._wait(self._client.inference_client(app)).stale

    def stats(self, app: AppName) -> ClientStats:
        """The counters of the application's requests by this client."""
        return self._wait(self._client.inference_client(app)).stats

    # -------------------------------------------------------------------------------------------- the other thread

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C: what was asked for is not wanted any more
            raise

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            loop = self._loop
            if loop is None and not self._closed:
                loop = self._loop = ClientLoop.acquire()
            if loop is not None and not loop.owns_this_thread():
                return loop.submit(self._run(work))  # with the lock: `close` then knows of it
        work.close()
        if loop is None:
            raise FailedPrecondition("the mesh client is closed")
        raise FailedPrecondition("a MeshClient cannot wait on its own thread: use AsyncMeshClient in interceptors")

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """On the loop's thread."""
        task = asyncio.current_task()
        self._running.add(task)
        try:
            return await work
        except asyncio.CancelledError as error:
            if self._closed:
                raise FailedPrecondition("the mesh client was closed meanwhile") from error
            raise
        finally:
            self._running.discard(task)

    def _with_progress(self, start: Callable[[Notify | None], Coroutine[Any, Any, T]], on_progress: Notify | None) -> T:
        """Runs `start`, whose sentences are handed to `on_progress` on this thread."""
        if on_progress is None:
            return self._wait(start(None))
        sentences: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        future = self._submit(start(sentences.put))
        future.add_done_callback(lambda _: sentences.put(None))
        try:
            while (sentence := sentences.get()) is not None:
                on_progress(sentence)
            return future.result()
        except BaseException:
            future.cancel()
            raise


async def _next(events: Any) -> AppEvent:
    event: AppEvent = await anext(events)
    return event


async def _close(events: Any) -> None:
    await events.aclose()
