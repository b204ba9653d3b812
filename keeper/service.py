# ruff: noqa: N802 - the methods have the names of the protocol
"""The gRPC service of `proto/keeper.proto`: thin calls onto `Applications` and `Watchers`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from keeper import views
from keeper.answers import Context, abort, answer, as_mesh_error, mark_stale
from keeper.api_keys import ApiKeys
from keeper.applications import Applications, app_key
from keeper.mirror import Mirror
from keeper.watchers import Watchers
from serving._proto import keeper_pb2 as api
from serving._proto import keeper_pb2_grpc as rpc
from serving.control import Clock
from serving.errors import Unavailable
from serving.timeouts import wait_for

T = TypeVar("T")


class KeeperService(rpc.KeeperServicer):
    """Every live keeper answers; only the leader decides."""

    def __init__(
        self, applications: Applications, watchers: Watchers, mirror: Mirror, clock: Clock, api_keys: ApiKeys
    ) -> None:
        self._applications = applications
        self._watchers = watchers
        self._mirror = mirror
        self._clock = clock
        self._api_keys = api_keys

    async def Deploy(self, request: api.DeployRequest, context: Context[Any, Any]) -> api.DeployResponse:
        return await self._answer(context, "Deploy", lambda: self._applications.deploy(request))

    async def Rollback(self, request: api.RollbackRequest, context: Context[Any, Any]) -> api.DeployResponse:
        return await self._answer(context, "Rollback", lambda: self._applications.rollback(request))

    async def PauseRollout(
        self, request: api.PauseRolloutRequest, context: Context[Any, Any]
    ) -> api.PauseRolloutResponse:
        async def work() -> api.PauseRolloutResponse:
            return await self._applications.pause(app_key(request.namespace, request.name), request.paused)

        return await self._answer(context, "PauseRollout", work)

    async def PromoteRollout(
        self, request: api.PromoteRolloutRequest, context: Context[Any, Any]
    ) -> api.PromoteRolloutResponse:
        return await self._answer(context, "PromoteRollout", lambda: self._applications.promote(request))

    async def GetApplication(self, request: api.ApplicationName, context: Context[Any, Any]) -> api.ApplicationView:
        async def work() -> api.ApplicationView:
            view, stale_s = await self._applications.get(app_key(request.namespace, request.name))
            mark_stale(context, stale_s)
            return view

        return await self._answer(context, "GetApplication", work)

    async def ListApplications(
        self, request: api.ListApplicationsRequest, context: Context[Any, Any]
    ) -> api.ListApplicationsResponse:
        async def work() -> api.ListApplicationsResponse:
            found, stale_s = await self._applications.list(request.namespace)
            mark_stale(context, stale_s)
            return api.ListApplicationsResponse(applications=found)

        return await self._answer(context, "ListApplications", work)

    async def DeleteApplication(
        self, request: api.ApplicationName, context: Context[Any, Any]
    ) -> api.DeleteApplicationResponse:
        async def work() -> api.DeleteApplicationResponse:
            await self._applications.delete(app_key(request.namespace, request.name))
            return api.DeleteApplicationResponse()

        return await self._answer(context, "DeleteApplication", work)

    async def ListRevisions(
        self, request: api.ApplicationName, context: Context[Any, Any]
    ) -> api.ListRevisionsResponse:
        async def work() -> api.ListRevisionsResponse:
            return await self._applications.revisions(app_key(request.namespace, request.name))

        return await self._answer(context, "ListRevisions", work)

    async def ListClusters(self, _: api.ListClustersRequest, context: Context[Any, Any]) -> api.ListClustersResponse:
        async def work() -> api.ListClustersResponse:
            await self._synced()
            mark_stale(context, self._mirror.stale_for_s)
            return views.clusters(self._mirror.picture, self._mirror.book, self._clock.now())

        return await self._answer(context, "ListClusters", work)

    async def CreateKey(self, request: api.CreateKeyRequest, context: Context[Any, Any]) -> api.KeyView:
        return await self._answer(context, "CreateKey", lambda: self._api_keys.create(request))

    async def GetKey(self, request: api.KeyId, context: Context[Any, Any]) -> api.KeyView:
        return await self._answer(context, "GetKey", lambda: self._api_keys.get(request))

    async def ListKeys(self, request: api.ListKeysRequest, context: Context[Any, Any]) -> api.ListKeysResponse:
        return await self._answer(context, "ListKeys", lambda: self._api_keys.list(request))

    async def UpdateKey(self, request: api.UpdateKeyRequest, context: Context[Any, Any]) -> api.KeyView:
        return await self._answer(context, "UpdateKey", lambda: self._api_keys.update(request))

    async def DeleteKey(self, request: api.KeyId, context: Context[Any, Any]) -> api.DeleteKeyResponse:
        return await self._answer(context, "DeleteKey", lambda: self._api_keys.delete(request))

    async def WatchApplications(
        self, request: api.WatchApplicationsRequest, context: Context[Any, Any]
    ) -> AsyncIterator[api.ApplicationEvent]:
        try:
            await self._synced()
            await self._applications.catch_up(request.namespace)
            async with aclosing(self._watchers.watch(request.namespace, request.name)) as events:
                async for event in events:
                    yield event
        except Exception as error:  # noqa: BLE001 - the edge: nothing may leave as a trace
            await abort(context, as_mesh_error(error, "WatchApplications"))

    async def _answer(self, context: Context[Any, Any], method: str, work: Callable[[], Awaitable[T]]) -> T:
        return await answer(context, method, work)

    async def _synced(self) -> None:
        """Waits a moment for the first full picture. Raises `Unavailable`."""
        try:
            await wait_for(self._mirror.synced.wait(), 5.0)
        except asyncio.TimeoutError:
            raise Unavailable(f"this keeper has not read the store yet: {self._mirror.stale_reason}") from None
