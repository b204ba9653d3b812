"""One inference client per application that is asked, opened at its first request."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from tritonclient.grpc import service_pb2

from serving.config import TlsConfig
from serving.discovery.client import InferenceClient
from serving.discovery.client_config import ClientConfig
from serving.discovery.resolver import START_WAIT_S, Resolver
from serving.errors import DeadlineExceeded, FailedPrecondition
from serving.routing import Rank
from serving.sdk.calls import InferCall, ModelMetadataCall
from serving.sdk.status import ModelMetadata
from serving.sdk.tensors import Array, decode_response, encode_request
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.timeouts import wait_for

MAX_APPLICATIONS: Final = 256


@dataclass(slots=True)
class _Opened:
    resolver: Resolver
    client: InferenceClient
    used_at: float = field(default_factory=time.monotonic)

    async def close(self) -> None:
        try:
            await self.client.close()
        finally:
            await self.resolver.close()


class InferenceClients:
    """Inference clients by application; at most 256, the one unused for longest is closed for a new one."""

    def __init__(
        self, store: EtcdClient, tls: TlsConfig | None, config: ClientConfig | None, rank: Rank | None
    ) -> None:
        self._store = store
        self._tls = tls
        self._config = config
        self._rank = rank
        self._opened: dict[AppKey, _Opened] = {}
        self._opening = asyncio.Lock()
        self._starting: Resolver | None = None  # the one that is waited for with that lock
        self._closed = False
        self._closing: set[asyncio.Future[None]] = set()

    async def infer(self, call: InferCall) -> dict[str, Array]:
        request = encode_request(
            call.model,
            call.inputs,
            outputs=call.outputs,
            version=call.version,
            request_id=call.request_id,
            parameters=call.parameters,
        )
        client, left_s = await self._within(call.app, call.timeout_s)
        response = await client.call(
            "ModelInfer",
            request,
            timeout_s=left_s,
            retry_safe=call.retry_safe,
            model=call.model,
            version=call.version,
            deployment=call.deployment,
            metadata=call.metadata,
        )
        return decode_response(response)

    async def model_metadata(self, call: ModelMetadataCall) -> ModelMetadata:
        client, left_s = await self._within(call.app, call.timeout_s)
        response = await client.call(
            "ModelMetadata",
            service_pb2.ModelMetadataRequest(name=call.model, version=call.version),
            timeout_s=left_s,
            model=call.model,
            version=call.version,
            deployment=call.deployment,
        )
        return ModelMetadata.from_response(response)

    async def _within(self, app: AppKey, timeout_s: float) -> tuple[InferenceClient, float]:
        """The client, and what is left of the time when it had to be opened first."""
        if app in self._opened:
            return await self.client(app), timeout_s
        started = time.monotonic()
        try:
            client = await wait_for(self.client(app, wait_s=timeout_s), timeout_s)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(f"discovery of {app} did not begin within {timeout_s:g} s") from None
        return client, max(timeout_s - (time.monotonic() - started), 0.001)

    async def client(self, app: AppKey, *, wait_s: float = START_WAIT_S) -> InferenceClient:
        """The client of one application, opened when it is not yet.

        Raises `StoreUnavailable` when nothing is known of the application yet and etcd does not answer in `wait_s`.
        """
        opened = self._opened.get(app)
        if opened is None:
            async with self._opening:
                opened = self._opened.get(app) or await self._open(app, min(wait_s, START_WAIT_S))
        opened.used_at = time.monotonic()
        return opened.client

    async def close(self) -> None:
        self._closed = True
        if self._starting is not None:  # who opens it hears of it now, and not when discovery has not answered in time
            await self._starting.close()
        async with self._opening:
            opened = list(self._opened.values())
            self._opened.clear()
            await asyncio.gather(*(entry.close() for entry in opened), *self._closing)

    async def _open(self, app: AppKey, wait_s: float) -> _Opened:
        if self._closed:
            raise FailedPrecondition("the mesh client is closed")
        if len(self._opened) >= MAX_APPLICATIONS:
            await self._close_oldest()
        config = self._config or ClientConfig()
        resolver = Resolver(self._store, app, role=config.via)
        client = InferenceClient(resolver, application=str(app), config=config, tls=self._tls, rank=self._rank)
        self._starting = resolver
        try:
            await resolver.start(wait_s=wait_s)
            await client.start()
            if self._closed:
                raise FailedPrecondition("the mesh client was closed meanwhile")
        except BaseException:
            try:
                await client.close()
            finally:
                await resolver.close()
            raise
        finally:
            self._starting = None
        opened = self._opened[app] = _Opened(resolver, client)
        return opened

    async def _close_oldest(self) -> None:
        idle = [(entry.used_at, app) for app, entry in self._opened.items() if not entry.client.stats.in_flight]
        if idle:
            oldest = self._opened.pop(min(idle)[1])
            closing = asyncio.ensure_future(oldest.close())  # to its end, also where the one who opens is cancelled
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            await asyncio.shield(closing)
