"""How many replicas a deployment has under load: what users write, how it is read, the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.schedule import DAYS
from serving.sdk._table import SECONDS, Field, ListOf, Number, Record, Text, Whole


@dataclass(frozen=True, slots=True)
class Schedule:
    """At least `min` replicas from `begin` to `until` (`"08:00"`, UTC), on `days` (`mon` to `sun`, empty is all)."""

    begin: str
    until: str
    min: int
    days: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """How many replicas run between `min` and `max` of `Replicas`. Each target asks for a number; the highest counts.

    Targets are per replica, 0 is none: `target_ongoing` requests that run or wait, `target_requests_per_s`,
    `target_cpu` as a share of `Resources.cpus`, `target_p99`, the time of a request in a replica. Load is averaged over
    `window`; more replicas must have been wanted for `up_delay`, fewer must have been enough for `down_delay`.
    `max_step_up` and `max_step_down` bound one change, 0 is any number.
    """

    target_ongoing: float = 0.0
    target_requests_per_s: float = 0.0
    target_cpu: float = 0.0
    target_p99: float | str = 0.0
    window: float | str = 10.0
    up_delay: float | str = 0.0
    down_delay: float | str = 120.0
    max_step_up: int = 0
    max_step_down: int = 0
    schedule: tuple[Schedule, ...] = ()


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
AUTOSCALING: Final = Record(
    "autoscaling",
    (
        Field("target_ongoing", Number(), "Requests that run or wait, per replica.", default=0.0),
        Field("target_requests_per_s", Number(), "Requests a second, per replica.", default=0.0),
        Field("target_cpu", Number(), "Share of the CPUs that a replica asks for: 0.7.", default=0.0),
        Field("target_p99", SECONDS, "Time of a request in a replica: 200ms.", default=0.0),
        Field("window", SECONDS, "Load is averaged over this: 10s.", default=10.0),
        Field("up_delay", SECONDS, "More replicas must have been wanted for so long: 0s.", default=0.0),
        Field("down_delay", SECONDS, "Fewer replicas must have been enough for so long: 120s.", default=120.0),
        Field("max_step_up", Whole(), "Replicas that one change may add; 0 is any number.", default=0),
        Field("max_step_down", Whole(), "Replicas that one change may take away; 0 is any number.", default=0),
        Field("schedule", ListOf(SCHEDULE), "Times at which more replicas run at least.", default=()),
    ),
)


def autoscaling_record(values: Mapping[str, Any] | None) -> pb.Autoscaling | None:
    """The record of what `AUTOSCALING` read; None where nothing was written."""
    if values is None:
        return None
    same = ("target_ongoing", "target_requests_per_s", "target_cpu", "max_step_up", "max_step_down")
    made = pb.Autoscaling(
        target_p99_s=values["target_p99"],
        window_s=values["window"],
        up_delay_s=values["up_delay"],
        down_delay_s=values["down_delay"],
        **{name: values[name] for name in same},
    )
    for entry in values["schedule"]:
        made.schedule.append(pb.ScheduledMinimum(begin=entry["begin"], until=entry["until"], min=entry["min"]))
        made.schedule[-1].days.extend(entry["days"])
    return made
