"""Rows as inferences of the Open Inference Protocol (KServe v2) over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from serving._proto import records_pb2 as pb
from serving.batch.rows.request import RowFault, RowRequest
from serving.batch.sending.places import Spot
from serving.batch.sending.verdict import Next, Reply, of_code
from serving.config import TlsConfig
from serving.discovery.client import INFER, InferenceClient, NoEndpoint
from serving.discovery.client_config import ClientConfig
from serving.discovery.client_verdict import Fault, judge, was_never_sent
from serving.errors import Code, MeshError
from serving.timeouts import cancel_and_wait


def _meaning(error: MeshError) -> Next:
    """A connection that ends is an attempt: the row may have ended the replica. Nobody there, or no room, is none."""
    if error.code is not Code.UNAVAILABLE or _is_unreachable(error):
        return of_code(error.code)
    fault = judge(error.code, error.message, connected=True, retry_safe=True).fault
    return Next.LATER if fault in (Fault.BUSY, Fault.LEAVING) else Next.ELSEWHERE


def _is_unreachable(error: MeshError) -> bool:
    return isinstance(error, NoEndpoint) or (
        error.code is Code.UNAVAILABLE and was_never_sent(error.message, connected=False)
    )


@dataclass(frozen=True, slots=True)
class _One:
    """The view of one endpoint, and where it comes from: the sender follows discovery, and chooses."""

    endpoints: tuple[pb.Endpoint, ...]
    stale: bool = False
    stale_for_s: float = 0.0
    splits: tuple[pb.TrafficSplit, ...] = ()

    @property
    def view(self) -> _One:
        return self

    async def subscribe(self) -> AsyncIterator[_One]:
        yield self
        await asyncio.Event().wait()

    def refused(self, _endpoint: pb.Endpoint) -> bool:
        return False


class KserveGrpc:
    """A client of discovery's for each endpoint, of one attempt: what to do then is the sender's. One event loop."""

    def __init__(self, *, timeout_s: float, tls: TlsConfig | None = None) -> None:
        self._timeout_s = timeout_s
        self._tls = tls
        self._clients: dict[str, InferenceClient] = {}
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def ask(self, spot: Spot, request: RowRequest) -> Reply:
        client = self._clients.get(spot.key) or await self._open(spot)
        try:
            answer = await client.call(INFER, request.body, timeout_s=self._timeout_s, model=request.model)
        except MeshError as error:
            fault = RowFault(error.code.name.lower(), error.message)
            return Reply(_meaning(error), error.http_status, fault=fault, unreachable=_is_unreachable(error))
        return Reply(Next.ANSWER, 200, answer, request_id=answer.id)

    async def _open(self, spot: Spot) -> InferenceClient:
        async with self._opening:
            found = self._clients.get(spot.key)
            if found is None:
                assert spot.endpoint is not None
                config = ClientConfig(max_attempts=1, unknown_model_wait_s=0.0)
                name = f"{spot.endpoint.namespace}/{spot.endpoint.application}"
                found = InferenceClient(_One((spot.endpoint,)), application=name, config=config, tls=self._tls)
                await found.start()
                self._clients[spot.key] = found
            return found

    def forget(self, spot: Spot) -> None:
        client = self._clients.pop(spot.key, None)
        if client is not None:
            task = asyncio.create_task(client.close(), name="batch client ends")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        await cancel_and_wait(*self._closing)
        clients, self._clients = self._clients, {}
        await asyncio.gather(*(client.close() for client in clients.values()))
