"""How requests are shared among deployments and revisions: what users write, how it is read, the records of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._table import SECONDS, Field, ListOf, MapOf, Number, Record, Text, Whole


@dataclass(frozen=True, slots=True)
class Match:
    """Requests whose metadata `header` (lower case) is `value` go `to` that deployment, or to the new revision."""

    header: str
    value: str
    to: str = ""


@dataclass(frozen=True, slots=True)
class Shadow:
    """`percent` of the requests are copied to the deployment `to`; the copies' answers are dropped."""

    to: str
    percent: float = 100.0


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """How the requests for `model` ("" is any) are shared: `split` holds weights by deployment.

    Requests with the same value of the metadata `key` get the same deployment. `name` is what metrics and `mesh split`
    call it, by default the model. Deployments that the split does not name, or whose weight is 0, get no request for
    that model, but those that a `match` sends there.
    """

    split: Mapping[str, int]
    model: str = ""
    name: str = ""
    key: str = ""
    match: tuple[Match, ...] = ()
    shadow: Shadow | None = None


@dataclass(frozen=True, slots=True)
class CanaryStep:
    """`weight` percent of the requests for `duration`; without one until somebody promotes it."""

    weight: float
    duration: float | str | None = None


@dataclass(frozen=True, slots=True)
class CanaryChecks:
    """What the new replicas must show from the beginning of a step, or the canary fails and gets no request any more.

    At most `max_error_rate` of their requests fail by the server's fault, their p99 is at most `max_p99` and at most
    `max_p99_ratio` times that of the old replicas (0 is any). A step ends only after `min_requests`.
    """

    max_error_rate: float = 0.05
    max_p99: float | str = 0.0
    max_p99_ratio: float = 0.0
    min_requests: int = 20


@dataclass(frozen=True, slots=True)
class Canary:
    """A new revision gets a growing share of the requests, as long as it does well.

    `key` and `match` are as in `TrafficSplit`; a match without `to` sends requests to the new revision.
    """

    steps: tuple[CanaryStep, ...]
    key: str = ""
    match: tuple[Match, ...] = ()
    checks: CanaryChecks = field(default_factory=CanaryChecks)


_HEADER: Final = Field("header", Text(), "Name of the metadata, lower case.", required=True)
_VALUE: Final = Field("value", Text(), "Its value.", required=True)
_MATCH: Final = Record("a match", (_HEADER, _VALUE, Field("to", Text(), "The deployment.", required=True)))
_SHADOW: Final = Record(
    "a shadow",
    (
        Field("to", Text(), "The deployment that gets copies.", required=True),
        Field("percent", Number(), "Of the requests: 10.", default=100.0),
    ),
)
TRAFFIC: Final = Record(
    "a traffic split",
    (
        Field("name", Text(), "What metrics and `mesh split` call it; by default the model.", default=""),
        Field("model", Text(), "Requests for this model; empty is any.", default=""),
        Field("split", MapOf(Whole()), "Weights by deployment: {ranker-a: 90, ranker-b: 10}.", required=True),
        Field("key", Text(), "Metadata: requests with the same value get the same deployment.", default=""),
        Field("match", ListOf(_MATCH), "Requests that a header sends to one deployment.", default=()),
        Field("shadow", _SHADOW, "A deployment that gets copies of requests."),
    ),
)
_STEP: Final = Record(
    "a step",
    (
        Field("weight", Number(), "Percent of the requests: 5.", required=True),
        Field("duration", SECONDS, "The next step begins after so long: 2m; without it when it is promoted."),
    ),
)
_CHECKS: Final = Record(
    "checks",
    (
        Field("max_error_rate", Number(), "Share of the requests that may fail by the server's fault.", default=0.05),
        Field("max_p99", SECONDS, "Time of a request in a replica: 200ms; 0 is any.", default=0.0),
        Field("max_p99_ratio", Number(), "To the p99 of the old replicas: 1.5; 0 is any.", default=0.0),
        Field("min_requests", Whole(), "Requests before they are judged, and before a step can end.", default=20),
    ),
)
CANARY: Final = Record(
    "a canary",
    (
        Field("steps", ListOf(_STEP), "Shares of the requests, one after the other, rising.", required=True),
        Field("key", Text(), "Metadata: requests with the same value get the same revision.", default=""),
        Field(
            "match",
            ListOf(Record("a match", (_HEADER, _VALUE, Field("to", Text(), "Leave it out.", default="")))),
            "Requests that a header sends to the new revision.",
            default=(),
        ),
        Field("checks", _CHECKS, "What the new replicas must show.", default=_CHECKS.defaults()),
    ),
)


def traffic_of(values: Mapping[str, Any]) -> TrafficSplit:
    """The object of what `TRAFFIC` read."""
    shadow = values["shadow"]
    match = tuple(Match(**one) for one in values["match"])
    return TrafficSplit(**{**values, "match": match, "shadow": None if shadow is None else Shadow(**shadow)})


def canary_of(values: Mapping[str, Any] | None) -> Canary | None:
    """The object of what `CANARY` read."""
    if values is None:
        return None
    steps = tuple(CanaryStep(**one) for one in values["steps"])
    match = tuple(Match(**one) for one in values["match"])
    return Canary(steps, values["key"], match, CanaryChecks(**values["checks"]))


def traffic_record(values: Mapping[str, Any]) -> pb.TrafficSplit:
    """The record of what `TRAFFIC` read. Sides have the names of their deployments."""
    made = pb.TrafficSplit(
        name=values["name"] or values["model"] or "all",
        model=values["model"],
        sides=[pb.TrafficSide(name=name, deployment=name, weight=weight) for name, weight in values["split"].items()],
        key=values["key"],
        matches=_matches(values["match"]),
    )
    if values["shadow"] is not None:
        made.shadow.deployment, made.shadow.percent = values["shadow"]["to"], values["shadow"]["percent"]
    return made


def canary_record(values: Mapping[str, Any] | None) -> pb.Canary | None:
    """The record of what `CANARY` read; None where nothing was written."""
    if values is None:
        return None
    checks = values["checks"]
    return pb.Canary(
        steps=[
            pb.CanaryStep(weight=step["weight"], for_s=step["duration"] or 0.0, manual=step["duration"] is None)
            for step in values["steps"]
        ],
        key=values["key"],
        matches=_matches(values["match"]),
        checks=pb.CanaryChecks(
            max_error_rate=checks["max_error_rate"],
            max_p99_s=checks["max_p99"],
            max_p99_ratio=checks["max_p99_ratio"],
            min_requests=checks["min_requests"],
        ),
    )


def _matches(values: tuple[Mapping[str, str], ...]) -> list[pb.HeaderMatch]:
    return [pb.HeaderMatch(header=one["header"], value=one["value"], side=one["to"]) for one in values]
