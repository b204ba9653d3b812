"""What makes the numbers of replicas valid: how many, how they follow the load, how they are replaced. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serving._proto import records_pb2 as pb
from serving.problems import MAX_TIMEOUT_S, Problem, check_count, check_number, check_whole, shown
from serving.schedule import DAYS, minute_of_day

MAX_REPLICAS: Final = 1000
MAX_WINDOW_S: Final = 3600.0
MAX_TARGET: Final = 1e9
MIN_TARGET: Final = 1e-4


def check_replicas(path: str, spec: pb.DeploymentSpec, *, proxied: bool) -> Iterator[Problem]:
    """`path` is the deployment's. `proxied`: it is the only one behind proxies, which hold requests for it.

    Of several deployments proxies could not say for which one they hold a request.
    """
    replicas, scaled = spec.replicas, spec.HasField("autoscaling")
    may_be_none = scaled and proxied and not spec.HasField("proxy")
    note = (
        ""
        if may_be_none or replicas.min
        else "; none at all needs autoscaling, proxies that hold requests, and no other deployment"
    )
    yield from check_whole(f"{path}.replicas.min", replicas.min, 0 if may_be_none else 1, MAX_REPLICAS, note)
    if replicas.max < replicas.min or (may_be_none and replicas.max < 1):
        yield Problem(f"{path}.replicas.max", f"{replicas.max} is less than min ({max(replicas.min, 1)})")
    elif replicas.max > replicas.min and not scaled:
        why = f"{replicas.max} differs from min ({replicas.min}), which needs autoscaling"
        yield Problem(f"{path}.replicas.max", why)
    if scaled:
        yield from _autoscaling(f"{path}.autoscaling", spec)


def _autoscaling(path: str, spec: pb.DeploymentSpec) -> Iterator[Problem]:
    wanted = spec.autoscaling
    targets = ("target_ongoing", "target_requests_per_s", "target_cpu")
    if not wanted.target_p99_s and not any(getattr(wanted, name) for name in targets) and not wanted.schedule:
        yield Problem(path, "names no target and no schedule, so nothing says how many replicas are wanted")
    for name in (*targets, "target_p99_s"):
        if 0 < getattr(wanted, name) < MIN_TARGET:
            yield Problem(f"{path}.{name.removesuffix('_s')}", f"is less than the least, {MIN_TARGET:g}")
    for name in targets:
        yield from check_number(f"{path}.{name}", getattr(wanted, name), MAX_TARGET, "")
    if wanted.target_cpu and not spec.resources.cpus:
        yield Problem(f"{path}.target_cpu", "is a share of resources.cpus, which is 0")
    if spec.HasField("proxy") and (wanted.target_requests_per_s or wanted.target_p99_s):
        yield Problem(path, "of proxies goes by target_ongoing and target_cpu only")
    yield from check_number(f"{path}.target_p99", wanted.target_p99_s, MAX_TIMEOUT_S, "seconds")
    for name in ("window", "up_delay", "down_delay"):
        yield from check_number(f"{path}.{name}", getattr(wanted, f"{name}_s"), MAX_WINDOW_S, "seconds")
    for name in ("max_step_up", "max_step_down"):
        yield from check_whole(f"{path}.{name}", getattr(wanted, name), 0, MAX_REPLICAS)
    yield from check_count(f"{path}.schedule", len(wanted.schedule))
    for index, entry in enumerate(wanted.schedule):
        yield from _schedule(f"{path}.schedule[{index}]", entry, spec.replicas.max)


def _schedule(path: str, entry: pb.ScheduledMinimum, most: int) -> Iterator[Problem]:
    for name, text in (("begin", entry.begin), ("until", entry.until)):
        try:
            minute_of_day(text)
        except ValueError as error:
            yield Problem(f"{path}.{name}", str(error))
    for number, day in enumerate(entry.days):
        if day not in DAYS:
            yield Problem(f"{path}.days[{number}]", f"{shown(day)} is not a day", allowed=DAYS)
    yield from check_whole(f"{path}.min", entry.min, 1, max(1, most), " (replicas.max)")


def check_rollout(path: str, rollout: pb.Rollout) -> Iterator[Problem]:
    for field, amount in (("max_surge", rollout.max_surge), ("max_unavailable", rollout.max_unavailable)):
        yield from check_whole(f"{path}.{field}", amount.count, 0, MAX_REPLICAS)
        yield from check_whole(f"{path}.{field}", amount.percent, 0, 100, " percent")
        if amount.count and amount.percent:
            yield Problem(f"{path}.{field}", "is both a number and a share")
    if rollout.HasField("max_surge") and not any(
        (amount.count, amount.percent) != (0, 0) for amount in (rollout.max_surge, rollout.max_unavailable)
    ):
        yield Problem(f"{path}.max_surge", "0 leaves no way to replace a replica while max_unavailable is 0, too")
    yield from check_number(f"{path}.min_ready", rollout.min_ready_s, MAX_TIMEOUT_S, "seconds")
