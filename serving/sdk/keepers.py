"""Calls to the Serving Keeper: any live one, the next one when it does not answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio

from serving._proto import keeper_pb2 as kpb
from serving._proto import records_pb2 as pb
from serving._proto import routes_pb2 as rpb
from serving.config import TlsConfig
from serving.discovery.client_tls import channel_credentials
from serving.errors import (
    Conflict,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    MeshError,
    StoreUnavailable,
    Unavailable,
    error_for_code,
)
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.records import decode
from serving.timeouts import cancelled_by_owner, wait_for

_log = logging.getLogger(__name__)

ATTEMPT_S: Final = 5.0  # a keeper that does not answer for so long is left for the next one
PAUSE_S: Final = 0.2

_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
_KEEPER: Final = "mesh.v1.Keeper"
_RESPONSES: Final[dict[str, Any]] = {
    "Deploy": kpb.DeployResponse,
    "GetApplication": kpb.ApplicationView,
    "ListApplications": kpb.ListApplicationsResponse,
    "DeleteApplication": kpb.DeleteApplicationResponse,
    "ListClusters": kpb.ListClustersResponse,
    "ListRevisions": kpb.ListRevisionsResponse,
    "Rollback": kpb.DeployResponse,
    "PauseRollout": kpb.PauseRolloutResponse,
    "PromoteRollout": kpb.PromoteRolloutResponse,
    "CreateKey": kpb.KeyView,
    "GetKey": kpb.KeyView,
    "ListKeys": kpb.ListKeysResponse,
    "UpdateKey": kpb.KeyView,
    "DeleteKey": kpb.DeleteKeyResponse,
    "mesh.v1.Routes/SetRoute": rpb.SetRouteResponse,
    "mesh.v1.Routes/GetRoute": rpb.RouteView,
    "mesh.v1.Routes/ListRoutes": rpb.ListRoutesResponse,
    "mesh.v1.Routes/DeleteRoute": rpb.DeleteRouteResponse,
}


class RepeatedConflict(Conflict):
    """A conflict with, perhaps, our own first attempt, whose answer was lost: read back to know."""


class Keepers:
    """Finds keepers in etcd and remembers them. Every call may be repeated by its design, so also elsewhere."""

    def __init__(self, store: EtcdClient, tls: TlsConfig | None) -> None:
        self._store = store
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._addresses: list[str] = []  # the one that answered last comes first
        self._closed = False

    async def call(self, method: str, request: Any, *, timeout_s: float) -> Any:
        """The answer of any keeper. Raises the keeper's error, or `Unavailable` when none answers in time.

        `method` is one of the service Keeper, or names its service: `mesh.v1.Routes/SetRoute`.
        `RepeatedConflict` instead of `Conflict` when an attempt before had no answer.
        """
        deadline = time.monotonic() + timeout_s
        last: MeshError | None = None
        while True:
            if last is not None or not self._addresses:
                last = await self._find(deadline) or last
            for address in tuple(self._addresses):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                try:
                    answer = await self._ask(address, method, request, min(left, ATTEMPT_S))
                except (Unavailable, DeadlineExceeded) as error:
                    last = error
                    continue
                except Conflict as error:
                    raise (RepeatedConflict(error.message) if last is not None else error) from error
                self._prefer(address)
                return answer
            last = last or Unavailable("there is none")
            if time.monotonic() + PAUSE_S >= deadline:
                raise self._nobody(last, timeout_s)
            await asyncio.sleep(PAUSE_S)

    async def watch(self, namespace: str, name: str) -> AsyncGenerator[kpb.ApplicationEvent | None, None]:
        """Events without end; None before each full picture: another keeper is asked when one is gone.

        Raises the keeper's error when it refuses, never because one is unavailable.
        """
        request = kpb.WatchApplicationsRequest(namespace=namespace, name=name)
        while True:
            await self._find(time.monotonic() + ATTEMPT_S)
            for address in tuple(self._addresses):
                yield None
                try:
                    async with self._stream(address, request) as events:
                        async for event in events:
                            yield event
                            self._prefer(address)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                        raise _mesh_error(error, address) from error
                    _log.info(
                        "keeper is gone, asking the next one", extra={"keeper": address, "details": error.details()}
                    )
                except asyncio.CancelledError:
                    if cancelled_by_owner(unknown=True):
                        raise
                    _log.info("keeper is no longer one, asking the next one", extra={"keeper": address})
            await asyncio.sleep(PAUSE_S)

    async def close(self) -> None:
        """Ends what runs. Nothing can be asked afterwards."""
        self._closed = True
        channels = list(self._channels.values())
        self._channels.clear()
        await asyncio.gather(*(channel.close(None) for channel in channels))

    async def _find(self, deadline: float) -> MeshError | None:
        """Reads who is there; with etcd away the ones known before stay."""
        try:
            left = max(deadline - time.monotonic(), 0.01)
            snapshot = await wait_for(self._store.get_prefix(keys.KEEPER_ELECTION), left)
        except (StoreUnavailable, asyncio.TimeoutError) as error:
            return error if isinstance(error, StoreUnavailable) else StoreUnavailable("etcd did not answer in time")
        found = []
        for entry in sorted(snapshot.kvs, key=lambda entry: entry.create_revision):
            try:
                found.append(decode(pb.KeeperRecord, entry.value).address)
            except DataLoss as error:
                _log.warning("a keeper's record is damaged", extra={"key": entry.key, "error": error.message})
        preferred = [address for address in self._addresses if address in found]
        self._addresses = list(dict.fromkeys(address for address in (*preferred, *found) if address))
        for address in [address for address in self._channels if address not in self._addresses]:
            await self._channels.pop(address).close(None)
        return None

    async def _ask(self, address: str, method: str, request: Any, timeout_s: float) -> Any:
        channel = await self._channel(address)
        stub = channel.unary_unary(
            f"/{method}" if "/" in method else f"/{_KEEPER}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=_RESPONSES[method].FromString,
        )
        try:
            return await stub(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _mesh_error(error, address) from error
        except asyncio.CancelledError as error:
            if cancelled_by_owner(unknown=True):
                raise
            text = f"the connection to keeper {address} was closed, because it is no longer one"
            raise Unavailable(text) from error

    @asynccontextmanager
    async def _stream(self, address: str, request: kpb.WatchApplicationsRequest) -> AsyncIterator[AsyncIterator[Any]]:
        """Cancelled at the end: the keeper counts its watchers."""
        channel = await self._channel(address)
        stub = channel.unary_stream(
            "/mesh.v1.Keeper/WatchApplications",
            request_serializer=kpb.WatchApplicationsRequest.SerializeToString,
            response_deserializer=kpb.ApplicationEvent.FromString,
        )
        call = stub(request)
        try:
            yield aiter(call)
        finally:
            call.cancel()

    async def _channel(self, address: str) -> grpc.aio.Channel:
        credentials = None
        if self._tls is not None and address not in self._channels:
            credentials = await asyncio.to_thread(channel_credentials, self._tls)
        if self._closed:
            raise FailedPrecondition("the mesh client is closed")
        if address not in self._channels:  # nor has another call opened one meanwhile
            if credentials is None:
                self._channels[address] = grpc.aio.insecure_channel(address, options=_OPTIONS)
            else:
                self._channels[address] = grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
        return self._channels[address]

    def _prefer(self, address: str) -> None:
        if self._addresses and self._addresses[0] != address:
            self._addresses = [address, *(other for other in self._addresses if other != address)]

    def _nobody(self, last: MeshError, timeout_s: float) -> MeshError:
        if self._addresses:
            known = ", ".join(self._addresses)
            return Unavailable(f"no keeper answered within {timeout_s:g} s (asked: {known}): {last.message}")
        where = ", ".join(self._store.config.endpoints)
        if isinstance(last, StoreUnavailable):
            return StoreUnavailable(f"no keeper can be found, etcd at {where} does not answer: {last.message}")
        return Unavailable(f"no keeper is registered in etcd at {where}; is the mesh up (`mesh up`)?")


def _mesh_error(error: grpc.aio.AioRpcError, address: str) -> MeshError:
    code = int(error.code().value[0])
    text = error.details() or error.code().name
    unreachable = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return error_for_code(code, f"{text} (keeper {address})" if unreachable else text)
