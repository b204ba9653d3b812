"""The routes of a mesh for code without asyncio: `MeshClient.routes`."""

from __future__ import annotations

from serving.sdk._client_loop import Wait
from serving.sdk.routes import ROUTES_TIMEOUT_S, Route, RoutesClient, RouteStatus


class BlockingRoutes:
    """The methods of `RoutesClient`, which wait for their answer."""

    def __init__(self, client: RoutesClient, wait: Wait) -> None:
        self._client = client
        self._wait = wait

    def set(
        self, route: Route, *, if_version: int = 0, author: str = "", timeout_s: float = ROUTES_TIMEOUT_S
    ) -> tuple[RouteStatus, bool]:
        """See `RoutesClient.set`."""
        return self._wait(self._client.set(route, if_version=if_version, author=author, timeout_s=timeout_s))

    def list(self, *, timeout_s: float = ROUTES_TIMEOUT_S) -> tuple[RouteStatus, ...]:
        """See `RoutesClient.list`."""
        return self._wait(self._client.list(timeout_s=timeout_s))

    def get(self, name: str, *, timeout_s: float = ROUTES_TIMEOUT_S) -> RouteStatus:
        """See `RoutesClient.get`."""
        return self._wait(self._client.get(name, timeout_s=timeout_s))

    def delete(self, name: str, *, if_version: int = 0, timeout_s: float = ROUTES_TIMEOUT_S) -> None:
        """See `RoutesClient.delete`."""
        self._wait(self._client.delete(name, if_version=if_version, timeout_s=timeout_s))
