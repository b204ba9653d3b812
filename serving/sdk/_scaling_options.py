"""How many replicas a deployment has under load: what users write, how it is read, the record of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.schedule import DAYS
from serving.sdk._artifacts import ARTIFACT, Artifact, artifact_record
from serving.sdk._table import (
    SECONDS,
    AnyValue,
    Either,
    Field,
    ListOf,
    MapOf,
    Number,
    PathText,
    Record,
    Text,
    Whole,
    json_text,
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """At least `min` replicas from `begin` to `until` (`"08:00"`, UTC), on `days` (`mon` to `sun`, empty is all)."""

    begin: str
    until: str
    min: int
    days: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forecast:
    """Load repeats itself every `period`: replicas for what was seen then are wanted `ahead` of it."""

    period: float | str = 86_400.0
    ahead: float | str = 300.0


@dataclass(frozen=True, slots=True)
class ScalingFunction:
    """A function of yours that is asked how many replicas are wanted; see `ScalingLoad`.

    `entry` is `"module:function"`. `code` is the local folder that holds the module (packed and stored by `deploy`) or
    an `Artifact`; without it the module is installed where application masters run. `args` are handed on.
    """

    entry: str
    code: str | os.PathLike[str] | Artifact | None = None
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """How many replicas run between `min` and `max` of `Replicas`. Each target asks for a number; the highest counts.

    Targets are per replica, 0 is none: `target_ongoing` requests that run or wait, `target_requests_per_s`,
    `target_cpu` as a share of `Resources.cpus`, `target_p99`, the time of a request in a replica. `target_queue_age` is
    how long the oldest request at brokers waits; without it requests at brokers count for `target_ongoing`.
    Load is averaged over `window`; more replicas must have been wanted for `up_delay`, fewer must have been enough for
    `down_delay`.
    `max_step_up` and `max_step_down` bound one change, 0 is any number. `forecast` makes room for the load that earlier
    periods had at that time, `policy` asks a function of yours.
    """

    target_ongoing: float = 0.0
    target_requests_per_s: float = 0.0
    target_cpu: float = 0.0
    target_p99: float | str = 0.0
    target_queue_age: float | str = 0.0
    window: float | str = 10.0
    up_delay: float | str = 0.0
    down_delay: float | str = 120.0
    max_step_up: int = 0
    max_step_down: int = 0
    schedule: tuple[Schedule, ...] = ()
    forecast: Forecast | None = None
    policy: ScalingFunction | None = None


SCHEDULE: Final = Record(
    "a schedule",
    (
        Field("begin", Text(), 'Time of day, UTC: "08:00".', required=True),
        Field(
            "until", Text(), 'Time of day, UTC, not included: "20:00"; before begin it is the next day.', required=True
        ),
        Field("min", Whole(), "Replicas that run then at least.", required=True),
        Field("days", ListOf(Text(allowed=DAYS)), "Days on which it begins; empty is every day.", default=()),
    ),
)
FORECAST: Final = Record(
    "a forecast",
    (
        Field("period", SECONDS, "After which load repeats itself: 24h.", default=86_400.0),
        Field("ahead", SECONDS, "How long before the load comes its replicas are wanted: 5m.", default=300.0),
    ),
)
FUNCTION: Final = Record(
    "a policy",
    (
        Field("entry", Text(), "The function that says how many replicas are wanted: module:function.", required=True),
        Field(
            "code",
            Either(ARTIFACT, PathText()),
            "The folder that holds the module, relative to this file, or an artifact; without it the module is "
            "installed where application masters run.",
        ),
        Field("args", MapOf(AnyValue()), "What the function is told besides the load.", default={}),
    ),
)
AUTOSCALING: Final = Record(
    "autoscaling",
    (
        Field("target_ongoing", Number(), "Requests that run or wait, per replica.", default=0.0),
        Field("target_requests_per_s", Number(), "Requests a second, per replica.", default=0.0),
        Field("target_cpu", Number(), "Share of the CPUs that a replica asks for: 0.7.", default=0.0),
        Field("target_p99", SECONDS, "Time of a request in a replica: 200ms.", default=0.0),
        Field("target_queue_age", SECONDS, "How long the oldest request at brokers waits: 60s.", default=0.0),
        Field("window", SECONDS, "Load is averaged over this: 10s.", default=10.0),
        Field("up_delay", SECONDS, "More replicas must have been wanted for so long: 0s.", default=0.0),
        Field("down_delay", SECONDS, "Fewer replicas must have been enough for so long: 120s.", default=120.0),
        Field("max_step_up", Whole(), "Replicas that one change may add; 0 is any number.", default=0),
        Field("max_step_down", Whole(), "Replicas that one change may take away; 0 is any number.", default=0),
        Field("schedule", ListOf(SCHEDULE), "Times at which more replicas run at least.", default=()),
        Field("forecast", FORECAST, "Makes room for the load that earlier periods had at that time."),
        Field("policy", FUNCTION, "A function of yours that says how many replicas are wanted."),
    ),
)


def autoscaling_record(values: Mapping[str, Any] | None, artifacts: Mapping[Path, Artifact]) -> pb.Autoscaling | None:
    """The record of what `AUTOSCALING` read; None where nothing was written."""
    if values is None:
        return None
    same = ("target_ongoing", "target_requests_per_s", "target_cpu", "max_step_up", "max_step_down")
    made = pb.Autoscaling(
        target_p99_s=values["target_p99"],
        target_queue_age_s=values["target_queue_age"],
        window_s=values["window"],
        up_delay_s=values["up_delay"],
        down_delay_s=values["down_delay"],
        **{name: values[name] for name in same},
    )
    policy = values["policy"]
    if policy is not None:
        made.policy.entry, made.policy.args = policy["entry"], json_text(policy["args"])
        if policy["code"]:
            made.policy.code.CopyFrom(artifact_record(policy["code"], artifacts))
    if values["forecast"] is not None:
        made.forecast.period_s, made.forecast.ahead_s = values["forecast"]["period"], values["forecast"]["ahead"]
    for entry in values["schedule"]:
        made.schedule.append(pb.ScheduledMinimum(begin=entry["begin"], until=entry["until"], min=entry["min"]))
        made.schedule[-1].days.extend(entry["days"])
    return made


def autoscaling_of(values: Mapping[str, Any] | None, code: str | Artifact | None) -> Autoscaling | None:
    """The object of what `AUTOSCALING` read; `code` is where its policy's is found."""
    if values is None:
        return None
    forecast = Forecast(**values["forecast"]) if values["forecast"] is not None else None
    schedule = tuple(Schedule(**entry) for entry in values["schedule"])
    policy = ScalingFunction(**{**values["policy"], "code": code}) if values["policy"] is not None else None
    return Autoscaling(**{**values, "schedule": schedule, "forecast": forecast, "policy": policy})
