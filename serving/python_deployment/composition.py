"""Calls from one deployment to others of its application: one client per replica, straight to their replicas."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from numpy.typing import ArrayLike

from serving.config import EtcdConfig, TlsConfig
from serving.discovery.client import InferenceClient
from serving.discovery.resolver import Resolver
from serving.errors import DeadlineExceeded, StoreUnavailable, Unavailable
from serving.sdk.tensors import BF16, Array, Parameter, decode_response, encode_request
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.timeouts import cancel_and_wait, wait_for

_LOG: Final = logging.getLogger(__name__)
_FIRST_VIEW_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class OutgoingCall:
    """One call to another deployment."""

    deployment: str
    model: str
    inputs: Mapping[str, ArrayLike | BF16]
    timeout_s: float
    version: str = ""
    outputs: Sequence[str] | None = None
    parameters: Mapping[str, Parameter] | None = None
    request_id: str = ""
    retry_safe: bool = True
    metadata: tuple[tuple[str, str | bytes], ...] = field(default=())


class Composition:
    """Owns the client. Made on the loop that serves, called from any thread; connects with the first call."""

    def __init__(self, app: AppKey, etcd: EtcdConfig, tls: TlsConfig | None) -> None:
        self._app = app
        self._etcd = etcd
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._opening: asyncio.Task[InferenceClient] | None = None
        self._closed = False
        self._store: EtcdClient | None = None
        self._resolver: Resolver | None = None
        self._client: InferenceClient | None = None

    def submit(self, call: OutgoingCall) -> concurrent.futures.Future[dict[str, Array]]:
        """Begins the call; the future raises errors of `serving.errors`, and cancelling it cancels the call."""
        return asyncio.run_coroutine_threadsafe(self._call(call), self._loop)

    async def close(self) -> None:
        """Ends calls that run with `Unavailable`. May be repeated."""
        self._closed = True
        if self._opening is not None:
            await cancel_and_wait(self._opening)
        await self._close_parts()

    async def _close_parts(self) -> None:
        for part in (self._client, self._resolver, self._store):
            if part is not None:
                await part.close()

    async def _call(self, call: OutgoingCall) -> dict[str, Array]:
        until = time.monotonic() + call.timeout_s
        try:
            client = await wait_for(self._opened(), call.timeout_s)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(
                f"the endpoints of {call.deployment} did not become known within {call.timeout_s:g} s"
            ) from None
        request = encode_request(
            call.model,
            call.inputs,
            outputs=call.outputs,
            version=call.version,
            request_id=call.request_id,
            parameters=call.parameters,
        )
        answer: Any = await client.call(
            "ModelInfer",
            request,
            timeout_s=max(0.0, until - time.monotonic()),
            retry_safe=call.retry_safe,
            model=call.model,
            version=call.version,
            deployment=call.deployment,
            metadata=call.metadata,
        )
        return decode_response(answer)

    async def _opened(self) -> InferenceClient:
        """The client, opened once: whoever is cancelled meanwhile leaves the opening to the others."""
        if self._closed:
            raise Unavailable("this replica has ended its calls to other deployments")
        opening = self._opening
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            # In a context of its own: what it starts lives as long as the replica, and must not keep a request alive.
            opening = self._opening = contextvars.Context().run(self._begin_to_open)
        return await asyncio.shield(opening)

    def _begin_to_open(self) -> asyncio.Task[InferenceClient]:
        opening = self._loop.create_task(self._open(), name="open-composition")
        opening.add_done_callback(lambda done: None if done.cancelled() else done.exception())  # it counts as seen
        return opening

    async def _open(self) -> InferenceClient:
        self._store = EtcdClient(self._etcd)
        self._resolver = Resolver(self._store, self._app)
        self._client = InferenceClient(self._resolver, application=str(self._app), tls=self._tls)
        try:
            try:
                await self._resolver.start(wait_s=_FIRST_VIEW_S)
            except StoreUnavailable as error:  # it goes on following, and calls wait for endpoints
                _LOG.warning("endpoints of other deployments are not known yet", extra={"error": error.message})
            await self._client.start()
        except Exception:
            await self._close_parts()
            raise
        return self._client


current_composition: ContextVar[Composition | None] = ContextVar("current_composition", default=None)
"""Set where user code begins to run: in the constructor and in each request."""
