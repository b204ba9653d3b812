# ruff: noqa: N802 - the methods have the names of the protocol
"""The gRPC service of `proto/routes.proto`: thin calls onto `Routes`."""

from __future__ import annotations

from typing import Any

from keeper.answers import Context, answer, mark_stale
from keeper.routes import Routes
from serving._proto import routes_pb2 as api
from serving._proto import routes_pb2_grpc as rpc


class RoutesService(rpc.RoutesServicer):
    """Every answer ends with the error tree's codes; see `keeper.answers`."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def SetRoute(self, request: api.SetRouteRequest, context: Context[Any, Any]) -> api.SetRouteResponse:
        return await answer(context, "SetRoute", lambda: self._routes.set(request))

    async def GetRoute(self, request: api.RouteName, context: Context[Any, Any]) -> api.RouteView:
        async def work() -> api.RouteView:
            view, stale_s = await self._routes.get(request.name)
            mark_stale(context, stale_s)
            return view

        return await answer(context, "GetRoute", work)

    async def ListRoutes(self, _: api.ListRoutesRequest, context: Context[Any, Any]) -> api.ListRoutesResponse:
        async def work() -> api.ListRoutesResponse:
            found, stale_s = await self._routes.list()
            mark_stale(context, stale_s)
            return api.ListRoutesResponse(routes=found)

        return await answer(context, "ListRoutes", work)

    async def DeleteRoute(self, request: api.DeleteRouteRequest, context: Context[Any, Any]) -> api.DeleteRouteResponse:
        async def work() -> api.DeleteRouteResponse:
            await self._routes.delete(request)
            return api.DeleteRouteResponse()

        return await answer(context, "DeleteRoute", work)
