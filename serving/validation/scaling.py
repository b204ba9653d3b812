"""What makes the numbers of replicas valid: how many, how they follow the load, how they are replaced. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serving._proto import records_pb2 as pb
from serving.problems import MAX_TIMEOUT_S, Problem, check_count, check_labels, check_number, check_whole, shown
from serving.schedule import DAYS, minute_of_day
from serving.validation.resources import check_resources

STRATEGIES: Final = ("spread", "pack")
BUNDLE_STRATEGIES: Final = ("pack", "spread", "strict_pack", "strict_spread")
MAX_REPLICAS: Final = 1000
MAX_WINDOW_S: Final = 3600.0
MAX_TARGET: Final = 1e9
MIN_TARGET: Final = 1e-4
MAX_SLOW_FACTOR: Final = 1e6
DAY_S: Final = 86_400.0
MIN_PERIOD_S: Final = 600.0
MAX_PERIOD_S: Final = 7 * DAY_S


def check_replicas(path: str, spec: pb.DeploymentSpec, *, proxied: bool, queued: bool) -> Iterator[Problem]:
    """`path` is the deployment's. `proxied`: it is the only one behind proxies, which hold requests for it.
    `queued`: a broker keeps requests for it.

    Of several deployments proxies could not say for which one they hold a request.
    """
    replicas, scaled = spec.replicas, spec.HasField("autoscaling")
    may_be_none = scaled and (proxied or queued) and not spec.HasField("proxy")
    note = (
        ""
        if may_be_none or replicas.min
        else "; none at all needs autoscaling, gRPC proxies that hold requests and no other deployment, or a broker"
    )
    yield from check_whole(f"{path}.replicas.min", replicas.min, 0 if may_be_none else 1, MAX_REPLICAS, note)
    if replicas.max < replicas.min or (may_be_none and replicas.max < 1):
        yield Problem(f"{path}.replicas.max", f"{replicas.max} is less than min ({max(replicas.min, 1)})")
    elif replicas.max > replicas.min and not scaled:
        why = f"{replicas.max} differs from min ({replicas.min}), which needs autoscaling"
        yield Problem(f"{path}.replicas.max", why)
    if scaled:
        yield from _autoscaling(f"{path}.autoscaling", spec, queued=queued)


def _autoscaling(path: str, spec: pb.DeploymentSpec, *, queued: bool) -> Iterator[Problem]:
    wanted = spec.autoscaling
    targets = ("target_ongoing", "target_requests_per_s", "target_cpu")
    timed = ("target_p99_s", "target_queue_age_s")
    says = any(getattr(wanted, name) for name in (*targets, *timed))
    if not says and not wanted.schedule and not wanted.HasField("policy"):
        yield Problem(path, "names no target, no policy and no schedule, so nothing says how many replicas are wanted")
    for name in (*targets, *timed):
        if 0 < getattr(wanted, name) < MIN_TARGET:
            yield Problem(f"{path}.{name.removesuffix('_s')}", f"is less than the least, {MIN_TARGET:g}")
    for name in targets:
        yield from check_number(f"{path}.{name}", getattr(wanted, name), MAX_TARGET, "")
    if wanted.target_cpu and not spec.resources.cpus:
        yield Problem(f"{path}.target_cpu", "is a share of resources.cpus, which is 0")
    if spec.HasField("proxy") and (wanted.target_requests_per_s or wanted.target_p99_s):
        yield Problem(path, "of proxies goes by target_ongoing and target_cpu only")
    for name in timed:
        yield from check_number(f"{path}.{name.removesuffix('_s')}", getattr(wanted, name), MAX_TIMEOUT_S, "seconds")
    if wanted.target_queue_age_s and not queued:
        yield Problem(f"{path}.target_queue_age", "needs a `broker` that takes the deployment's requests")
    for name in ("window", "up_delay", "down_delay"):
        yield from check_number(f"{path}.{name}", getattr(wanted, f"{name}_s"), MAX_WINDOW_S, "seconds")
    for name in ("max_step_up", "max_step_down"):
        yield from check_whole(f"{path}.{name}", getattr(wanted, name), 0, MAX_REPLICAS)
    if wanted.HasField("forecast"):
        yield from _forecast(f"{path}.forecast", wanted)
    yield from check_count(f"{path}.schedule", len(wanted.schedule))
    for index, entry in enumerate(wanted.schedule):
        yield from _schedule(f"{path}.schedule[{index}]", entry, spec.replicas.max)


def _forecast(path: str, wanted: pb.Autoscaling) -> Iterator[Problem]:
    period, ahead = wanted.forecast.period_s, wanted.forecast.ahead_s
    if period and not MIN_PERIOD_S <= period <= MAX_PERIOD_S:
        yield Problem(f"{path}.period", f"{period:g} is out of range: {MIN_PERIOD_S:g} to {MAX_PERIOD_S:g} seconds")
    elif not 0 <= ahead <= (period or DAY_S) / 4:
        yield Problem(f"{path}.ahead", f"{ahead:g} is out of range: 0 to a quarter of the period")
    if not (wanted.target_ongoing or wanted.target_requests_per_s or wanted.target_cpu):
        targets = "target_ongoing, target_requests_per_s or target_cpu"
        yield Problem(path, f"needs {targets}: from p99 and schedules nothing can be foreseen")


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


def check_scheduling(path: str, scheduling: pb.Scheduling) -> Iterator[Problem]:
    yield from check_labels(f"{path}.node_labels", scheduling.node_labels)
    if scheduling.strategy and scheduling.strategy not in STRATEGIES:
        yield Problem(f"{path}.strategy", f"{shown(scheduling.strategy)} is not known", allowed=STRATEGIES)
    yield from check_count(f"{path}.bundles", len(scheduling.bundles))
    for number, bundle in enumerate(scheduling.bundles):
        yield from check_resources(f"{path}.bundles[{number}]", bundle)
        if not (bundle.cpus or bundle.gpus or bundle.memory_bytes or any(bundle.custom.values())):
            yield Problem(f"{path}.bundles[{number}]", "reserves nothing: say `cpus`, `gpus`, `memory` or `custom`")
    if scheduling.bundle_strategy and scheduling.bundle_strategy not in BUNDLE_STRATEGIES:
        found = f"{shown(scheduling.bundle_strategy)} is not known"
        yield Problem(f"{path}.bundle_strategy", found, allowed=BUNDLE_STRATEGIES)
    if scheduling.bundle_strategy and not scheduling.bundles:
        yield Problem(f"{path}.bundle_strategy", "needs `bundles`")
    if scheduling.bundles and scheduling.strategy:
        yield Problem(f"{path}.strategy", "does not go with `bundles`, whose nodes are said by `bundle_strategy`")


def check_bundles(path: str, deployment: pb.DeploymentSpec) -> Iterator[Problem]:
    """Only code of users in Python starts actors of its own, for which a replica can reserve."""
    kind = deployment.WhichOneof("kind")
    types = {part.accelerator_type for part in (deployment.resources, *deployment.scheduling.bundles)} - {""}
    if deployment.scheduling.bundle_strategy == "strict_pack" and len(types) > 1:
        wanted = " and ".join(sorted(types))
        yield Problem(f"{path}.scheduling.bundle_strategy", f"wants one node with {wanted}, and a node has one type")
    if deployment.scheduling.bundles and kind not in ("python", "serve", None):  # of these others tell
        yield Problem(
            f"{path}.scheduling.bundles", f"is not supported with `{kind}`: only `python` starts actors itself"
        )


def check_slow(path: str, slow: pb.SlowReplicas) -> Iterator[Problem]:
    factor = slow.factor
    if slow.HasField("factor") and factor != 0 and not 2 <= factor <= MAX_SLOW_FACTOR:
        yield Problem(f"{path}.factor", f"{factor:g} is out of range: 2 to {MAX_SLOW_FACTOR:g}; 0 is never")
    yield from check_number(f"{path}.after", slow.after_s, MAX_WINDOW_S, "seconds")


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
