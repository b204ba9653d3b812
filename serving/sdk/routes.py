"""Routes: names that clients of gateways ask for, and the models that answer.

`routes.yaml`::

    routes:
      - name: gpt-4o                        # what clients ask for
        targets:                            # full names of models and their shares
          default/chat/tiny-chat: 90
          default/chat-new/tiny-chat: 10
        fallbacks: [default/chat-west/tiny-chat]      # optional: asked in this order when no target can answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving._proto import routes_pb2 as rpb
from serving.problems import Problem
from serving.sdk import calls
from serving.sdk._table import Field, ListOf, MapOf, Reading, Record, Text, Whole
from serving.sdk._yaml import parse_document, read_text
from serving.sdk.keepers import Keepers
from serving.validation.route import route_problems, validate_route

ROUTES_TIMEOUT_S: Final = 15.0
_ROUTE: Final = Record(
    "a route",
    (
        Field("name", Text(), "What clients of gateways ask for.", required=True),
        Field("targets", MapOf(Whole()), "Full names of models and their shares of the requests.", required=True),
        Field("fallbacks", ListOf(Text()), "Models that are asked when no target can answer, in order.", default=()),
    ),
)
TABLE: Final = Record("routes.yaml", (Field("routes", ListOf(_ROUTE), "The routes.", required=True),))


@dataclass(frozen=True, slots=True)
class Route:
    """`targets` are weights by the full names of models (`namespace/application/model`), `fallbacks` such names."""

    name: str
    targets: Mapping[str, int]
    fallbacks: Sequence[str] = field(default=())

    def record(self) -> pb.RouteRecord:
        """As it is stored. Raises `SpecError` that names every problem."""
        targets = [pb.RouteTarget(model=model, weight=weight) for model, weight in self.targets.items()]
        made = pb.RouteRecord(name=self.name, targets=targets, fallbacks=self.fallbacks)
        validate_route(made)
        return made


@dataclass(frozen=True, slots=True)
class RoutedModel:
    """One model of a route: how many endpoints take requests, and why it answers nothing ("": it answers)."""

    model: str
    ready: int
    warning: str


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """A stored route. `models` are its targets, then its fallbacks."""

    route: Route
    version: int
    author: str
    changed: datetime
    models: tuple[RoutedModel, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(f"{one.model}: {one.warning}" for one in self.models if one.warning)

    @classmethod
    def from_view(cls, view: rpb.RouteView) -> RouteStatus:
        record = view.record
        targets = {target.model: target.weight for target in record.targets}
        models = tuple(RoutedModel(one.model, one.ready, one.warning) for one in view.models)
        changed = record.changed.ToDatetime(tzinfo=timezone.utc)
        route = Route(record.name, targets, tuple(record.fallbacks))
        return cls(route, record.version, record.author, changed, models)


def load_routes(path: str | Path) -> tuple[Route, ...]:
    """The routes of a YAML file. Raises `SpecError` with file, line and field for everything wrong in it."""
    return parse_routes(read_text(Path(path)), str(path))


def parse_routes(text: str, source: str) -> tuple[Route, ...]:
    """As `load_routes`; `source` is what errors call the text."""
    document = parse_document(text, source)
    reading = Reading(raw=document.raw)
    entries = TABLE.read(document.value, reading.root())["routes"]
    if not reading.problems:
        reading.problems.extend(_problems(entries))
    if reading.problems:
        raise document.error(reading.problems)
    return tuple(Route(entry["name"], entry["targets"], entry["fallbacks"]) for entry in entries)


def _problems(entries: tuple[Mapping[str, Any], ...]) -> list[Problem]:
    found: list[Problem] = []
    names: list[str] = []
    for index, entry in enumerate(entries):
        place = f"routes[{index}]"
        targets = [pb.RouteTarget(model=model, weight=weight) for model, weight in entry["targets"].items()]
        record = pb.RouteRecord(name=entry["name"], targets=targets, fallbacks=entry["fallbacks"])
        found += [
            Problem(f"{place}.{one.field}", one.message, one.allowed, one.closest) for one in route_problems(record)
        ]
        if entry["name"] in names:
            found.append(Problem(f"{place}.name", f"`{entry['name']}` stands there twice"))
        names.append(entry["name"])
    if not entries:
        found.append(Problem("routes", "is empty"))
    return found


class RoutesClient:
    """The routes of a mesh, as `AsyncMeshClient.routes`. Every method raises errors of `serving.errors`."""

    def __init__(self, handle: calls.Proceed) -> None:
        """`handle` is the client's, with its interceptors."""
        self._handle = handle

    async def set(
        self, route: Route, *, if_version: int = 0, author: str = "", timeout_s: float = ROUTES_TIMEOUT_S
    ) -> tuple[RouteStatus, bool]:
        """Stores a route, or replaces it; answers it, and whether it changed.

        Models that are not there are allowed, and told as `warnings`. `if_version`: only if this is the current
        version, else `Conflict`. Raises `SpecError`.
        """
        answer = await self._handle(calls.SetRouteCall(route.record(), if_version, author, timeout_s))
        return RouteStatus.from_view(answer.route), answer.changed

    async def list(self, *, timeout_s: float = ROUTES_TIMEOUT_S) -> tuple[RouteStatus, ...]:
        """All routes by name."""
        answer = await self._handle(calls.ListRoutesCall(timeout_s))
        return tuple(RouteStatus.from_view(view) for view in answer.routes)

    async def get(self, name: str, *, timeout_s: float = ROUTES_TIMEOUT_S) -> RouteStatus:
        """Raises `NotFound`."""
        return RouteStatus.from_view(await self._handle(calls.GetRouteCall(name, timeout_s)))

    async def delete(self, name: str, *, if_version: int = 0, timeout_s: float = ROUTES_TIMEOUT_S) -> None:
        """Raises `NotFound`, `Conflict`."""
        await self._handle(calls.DeleteRouteCall(name, if_version, timeout_s))


class RouteHandlers:
    """What becomes of the calls above: questions to keepers."""

    def __init__(self, keepers: Keepers) -> None:
        self._keepers = keepers
        self.by_call: dict[type, Any] = {
            calls.SetRouteCall: self._set,
            calls.GetRouteCall: self._get,
            calls.ListRoutesCall: self._list,
            calls.DeleteRouteCall: self._delete,
        }

    async def _set(self, call: calls.SetRouteCall) -> Any:
        request = rpb.SetRouteRequest(route=call.record, if_version=call.if_version, author=call.author)
        return await self._keepers.call("mesh.v1.Routes/SetRoute", request, timeout_s=call.timeout_s)

    async def _get(self, call: calls.GetRouteCall) -> Any:
        request = rpb.RouteName(name=call.name)
        return await self._keepers.call("mesh.v1.Routes/GetRoute", request, timeout_s=call.timeout_s)

    async def _list(self, call: calls.ListRoutesCall) -> Any:
        request = rpb.ListRoutesRequest()
        return await self._keepers.call("mesh.v1.Routes/ListRoutes", request, timeout_s=call.timeout_s)

    async def _delete(self, call: calls.DeleteRouteCall) -> Any:
        request = rpb.DeleteRouteRequest(name=call.name, if_version=call.if_version)
        return await self._keepers.call("mesh.v1.Routes/DeleteRoute", request, timeout_s=call.timeout_s)
