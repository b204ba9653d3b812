"""What makes the `broker` part of a spec valid, and whose requests it may take. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from serving._proto import records_pb2 as pb
from serving.broker.pulled import PULLED, pulled_deployments, queued_deployments
from serving.broker.queue import QueueSettings
from serving.broker.settings import USUAL_TTL_S
from serving.problems import MAX_TIMEOUT_S, Problem, check_duplicates, check_number, check_whole, shown
from serving.spelling import closest_match
from serving.types import DISPATCH_PULL, DISPATCHES
from serving.validation.broker_callbacks import callback_problems
from serving.validation.broker_redis import redis_problems

SYNCS: Final = ("full", "normal")
MIN_LEASE_S: Final = 1.0
MAX_LEASE_S: Final = 3600.0
MAX_TTL_S: Final = 365 * MAX_TIMEOUT_S
MAX_ATTEMPTS: Final = 1000
MAX_ITEMS: Final = 100_000_000
MAX_BYTES: Final = 1 << 42
MAX_ITEM_BYTES: Final = 1 << 30  # one message of gRPC carries it, and one value of SQLite
MAX_PER_REPLICA: Final = 10_000
_NOT_YET: Final = frozenset({"serve"})


def broker_problems(path: str, deployment: pb.DeploymentSpec) -> Iterator[Problem]:
    """`path` is the deployment's."""
    broker = deployment.broker
    at = f"{path}.broker"
    if broker.lease_s and not MIN_LEASE_S <= broker.lease_s <= MAX_LEASE_S:
        text = f"{broker.lease_s:g} s is out of range: {MIN_LEASE_S:g} to {MAX_LEASE_S:g} s; 0 is the default of 15 s"
        yield Problem(f"{at}.lease", text)
    yield from check_whole(f"{at}.max_attempts", broker.max_attempts, 0, MAX_ATTEMPTS, "; 0 is the default of 3")
    for field in ("result_ttl", "max_result_ttl", "dead_ttl"):
        yield from check_number(f"{at}.{field}", getattr(broker, f"{field}_s"), MAX_TTL_S, "seconds")
    usual_ttl_s = broker.result_ttl_s or USUAL_TTL_S
    if 0 < broker.max_result_ttl_s < usual_ttl_s:
        text = f"{broker.max_result_ttl_s:g} s is shorter than result_ttl, {usual_ttl_s:g} s"
        yield Problem(f"{at}.max_result_ttl", text)
    for field, high, note in (
        ("max_items", MAX_ITEMS, "the default of 1000000"),
        ("max_bytes", MAX_BYTES, "the default of 4 GiB"),
        ("max_tenant_items", MAX_ITEMS, "no limit but that of all"),
        ("max_tenant_bytes", MAX_BYTES, "no limit but that of all"),
        ("max_request_bytes", MAX_ITEM_BYTES, "the default of 64 MiB"),
        ("max_result_bytes", MAX_ITEM_BYTES, "the default of 64 MiB"),
        ("per_replica", MAX_PER_REPLICA, "as many as keep a replica busy"),
    ):
        yield from check_whole(f"{at}.{field}", getattr(broker, field), 0, high, f"; 0 is {note}")
    if broker.path and (not PurePosixPath(broker.path).is_absolute() or "\0" in broker.path):
        yield Problem(f"{at}.path", f"{shown(broker.path)} is not the absolute path of a folder")
    if broker.sync and broker.sync not in SYNCS:
        yield Problem(f"{at}.sync", f"{shown(broker.sync)} is not known", allowed=SYNCS)
    if broker.HasField("ageing_s"):
        yield from check_number(f"{at}.ageing", broker.ageing_s, MAX_TIMEOUT_S, "seconds; 0 is never")
    yield from _shares(at, broker)
    yield from callback_problems(f"{at}.callbacks", broker.callbacks)
    if broker.HasField("redis"):
        yield from redis_problems(f"{at}.redis", broker)
    yield from check_duplicates(f"{at}.before", list(broker.before))
    if broker.pulled:
        yield Problem(f"{at}.pulled", "is not said here: give the deployments `dispatch: pull`")
    if deployment.rollout.HasField("canary"):
        text = "is not supported with `broker`: requests go to the journals that are there, whatever their revision"
        yield Problem(f"{path}.rollout.canary", text)


def _shares(at: str, broker: pb.BrokerDeployment) -> Iterator[Problem]:
    for field in ("short_share", "long_share"):
        value = getattr(broker, field)
        if broker.HasField(field) and not (math.isfinite(value) and 0 <= value <= 1):
            yield Problem(f"{at}.{field}", f"{value:g} is not a share between 0 and 1")
    usual = QueueSettings()
    short = broker.short_share if broker.HasField("short_share") else usual.short_share
    long = broker.long_share if broker.HasField("long_share") else usual.long_share
    if math.isfinite(short) and math.isfinite(long) and 1 < short + long <= 2:
        yield Problem(f"{at}.long_share", f"{long:g} and short_share {short:g} are more than all places")


def pulled_problems(spec: pb.ApplicationSpec) -> Iterator[Problem]:
    """Every broker has a deployment whose replicas ask it, and every deployment one `broker` at most."""
    kinds = {one.name: one.WhichOneof("kind") or "" for one in spec.deployments}
    pulled = pulled_deployments(spec)
    taken: dict[str, int] = {}
    for index, deployment in enumerate(spec.deployments):
        if not deployment.HasField("broker"):
            continue
        path = f"deployments[{index}].broker"
        if not pulled and not deployment.broker.before:
            yield Problem(path, f"has nobody to ask it: the application has no {_listed(PULLED)} deployment")
        for place, name in enumerate(deployment.broker.before):
            yield from _named(f"{path}.before[{place}]", name, kinds, pulled)
        for name in sorted(set(pulled) & set(deployment.broker.before or pulled)):
            first = taken.setdefault(name, index)
            if first != index:
                yield Problem(f"{path}.before", f"`{name}` has the broker deployments[{first}] already")


def dispatch_problems(spec: pb.ApplicationSpec) -> Iterator[Problem]:
    """Who gets its requests through a broker has one, and nothing that a broker does not know of."""
    queued = queued_deployments(spec)
    for index, deployment in enumerate(spec.deployments):
        path, kind = f"deployments[{index}].dispatch", deployment.WhichOneof("kind") or ""
        if deployment.dispatch and deployment.dispatch not in DISPATCHES:
            yield Problem(path, f"{shown(deployment.dispatch)} is not known", allowed=DISPATCHES)
        if deployment.dispatch != DISPATCH_PULL:
            continue
        name = deployment.name
        if kind not in PULLED:
            text = f"pull is not supported by a `{kind}` deployment: only {_listed(PULLED)} replicas ask brokers"
            yield Problem(path, text)
            continue
        if name not in queued:
            text = (
                f"pull needs a broker, and no one takes requests for `{name}`: add "
                f"`{{name: queue, broker: {{before: [{name}]}}}}` to the deployments"
            )
            yield Problem(path, text)
        if deployment.rollout.HasField("canary"):
            yield Problem(path, "pull is not supported with `rollout.canary`: both revisions ask the broker")
        if any(split.HasField("shadow") for split in spec.traffic):
            yield Problem(path, "pull is not supported beside a `shadow` in `traffic`: its requests are not copied")


def _named(path: str, name: str, kinds: dict[str, str], pulled: tuple[str, ...]) -> Iterator[Problem]:
    if name in pulled:
        return
    kind = kinds.get(name)
    if kind is None:
        yield Problem(path, f"{shown(name)} is no deployment of the application", closest=closest_match(name, pulled))
    elif kind in _NOT_YET:
        yield Problem(path, f"`{name}` is of kind `{kind}`, whose replicas cannot ask brokers yet: not supported")
    else:
        yield Problem(path, f"`{name}` is of kind `{kind}`, which has no requests of its own that could wait")


def _listed(kinds: tuple[str, ...]) -> str:
    return ", ".join(f"`{kind}`" for kind in kinds[:-1]) + f" or `{kinds[-1]}`"
