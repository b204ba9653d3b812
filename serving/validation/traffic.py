"""What makes traffic splits and canaries valid. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from serving._proto import records_pb2 as pb
from serving.problems import (
    MAX_TIMEOUT_S,
    Problem,
    check_count,
    check_duplicates,
    check_name,
    check_number,
    check_whole,
    shown,
)
from serving.routing.policy import METADATA_NAME, METADATA_RULE
from serving.spelling import closest_match

MAX_WEIGHT: Final = 1_000_000
MAX_STEPS: Final = 20
MAX_CHECKED_REQUESTS: Final = 1_000_000
MAX_RATIO: Final = 1000.0
_NOT_SPLIT: Final = frozenset({"proxy", "serve", "semantic_cache", "broker", "batch"})
_NOT_COPIED: Final = ("llm", "embedding")  # gateways send no copies
CANARY_NAME: Final = "canary-"  # the splits of canaries are called so

_VALUE: Final = re.compile(r"[\x20-\x7e]{1,1024}")  # what gRPC can carry in metadata with text


def traffic_problems(spec: pb.ApplicationSpec) -> Iterator[Problem]:
    """Of `ApplicationSpec.traffic`."""
    yield from check_count("traffic", len(spec.traffic))
    deployments = {one.name: one for one in spec.deployments}
    targets = tuple(name for name, one in deployments.items() if one.WhichOneof("kind") not in _NOT_SPLIT)
    names: set[str] = set()
    models: set[str] = set()
    for index, split in enumerate(spec.traffic):
        path = f"traffic[{index}]"
        yield from _name(path, split.name, names)
        names.add(split.name)
        if split.model in models:
            what = f"the model {shown(split.model)}" if split.model else "any model"
            yield Problem(f"{path}.model", f"another split is about {what} already")
        elif "" in models or (models and not split.model):
            yield Problem(f"{path}.model", "a split about any model must be the only one")
        models.add(split.model)
        yield from _sides(path, split, targets)
        yield from _metadata_name(f"{path}.key", split.key)
        yield from _matches(f"{path}.match", split.matches, tuple(side.name for side in split.sides))
        yield from _shadow(f"{path}.shadow", split, deployments, targets)


def _name(path: str, name: str, seen: set[str]) -> Iterator[Problem]:
    if name in seen:
        yield Problem(f"{path}.name", f"{shown(name)} is the name of another split already")
    elif name.startswith(CANARY_NAME):
        yield Problem(f"{path}.name", f"{shown(name)} begins with `{CANARY_NAME}`, as only those of canaries do")
    elif not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}", name):
        yield from check_name(f"{path}.name", name)


def _sides(path: str, split: pb.TrafficSplit, targets: tuple[str, ...]) -> Iterator[Problem]:
    yield from check_count(f"{path}.split", len(split.sides))
    if split.deployment:
        yield Problem(f"{path}.deployment", "is set by application masters only; leave it out")
    yield from check_duplicates(f"{path}.split", [side.deployment for side in split.sides])
    for side in split.sides:
        if side.name != side.deployment or side.revisions:
            yield Problem(f"{path}.split", f"{shown(side.name)} is not just the name of a deployment")
        if side.deployment not in targets:
            yield _no_target(f"{path}.split", side.deployment, targets)
        yield from check_whole(f"{path}.split.{side.name}", side.weight, 0, MAX_WEIGHT)
    if not any(side.weight > 0 for side in split.sides):
        yield Problem(f"{path}.split", "gives no deployment a weight above 0")


def _no_target(path: str, name: str, targets: tuple[str, ...]) -> Problem:
    message = f"{shown(name)} is not a deployment of this application that computes"
    return Problem(path, message, allowed=targets, closest=closest_match(name, targets))


def _shadow(
    path: str, split: pb.TrafficSplit, deployments: Mapping[str, pb.DeploymentSpec], targets: tuple[str, ...]
) -> Iterator[Problem]:
    if not split.HasField("shadow"):
        return
    name = split.shadow.deployment
    for one in (name, *(side.deployment for side in split.sides)):
        kind = deployments[one].WhichOneof("kind") if one in deployments else None
        if kind in _NOT_COPIED:
            yield Problem(path, f"is not supported with `{kind}` (`{one}`): gateways send no copies of requests")
            break
    if name not in targets:
        yield _no_target(f"{path}.to", name, targets)
    elif any(side.deployment == name and side.weight > 0 for side in split.sides):
        yield Problem(
            f"{path}.to", f"`{name}` gets requests of this split already, so its answers would not be dropped"
        )
    percent = split.shadow.percent
    if not (math.isfinite(percent) and 0 < percent <= 100):
        yield Problem(f"{path}.percent", f"{percent:g} is out of range: more than 0 to 100 percent")


def _matches(path: str, matches: Iterable[pb.HeaderMatch], sides: tuple[str, ...]) -> Iterator[Problem]:
    """`sides` empty: of a canary, whose matches all mean the new revision."""
    for index, match in enumerate(matches):
        place = f"{path}[{index}]"
        yield from _metadata_name(f"{place}.header", match.header, required=True)
        if not _VALUE.fullmatch(match.value):
            yield Problem(f"{place}.value", f"{shown(match.value)} is not a text of 1 to 1024 printable ASCII letters")
        if sides and match.side not in sides:
            closest = closest_match(match.side, sides)
            yield Problem(f"{place}.to", f"{shown(match.side)} is not in split", allowed=sides, closest=closest)
        elif not sides and match.side:
            yield Problem(f"{place}.to", "has no meaning here: a canary's match always means the new revision")


def _metadata_name(path: str, name: str, *, required: bool = False) -> Iterator[Problem]:
    if (name or required) and not METADATA_NAME.fullmatch(name):
        yield Problem(path, f"{shown(name)} is not {METADATA_RULE}")


def canary_problems(path: str, spec: pb.DeploymentSpec) -> Iterator[Problem]:
    """Of a deployment's `rollout.canary`; `path` is that field's."""
    canary = spec.rollout.canary
    if spec.HasField("proxy"):
        yield Problem(path, "is not supported for proxies: requests are shared among those who compute")
    if spec.triton.update == "in_place":
        yield Problem(path, "cannot be combined with `update: in_place`: the old replicas would be gone")
    if spec.rollout.HasField("max_surge") and not (spec.rollout.max_surge.count or spec.rollout.max_surge.percent):
        yield Problem(path, "needs `max_surge` above 0: new replicas run beside the old ones")
    if not 1 <= len(canary.steps) <= MAX_STEPS:
        yield Problem(f"{path}.steps", f"has {len(canary.steps)} entries, 1 to {MAX_STEPS} are allowed")
    before = 0.0
    for index, step in enumerate(canary.steps):
        place = f"{path}.steps[{index}]"
        if not (math.isfinite(step.weight) and 0.01 <= step.weight < 100):
            yield Problem(f"{place}.weight", f"{step.weight:g} is out of range: 0.01 to less than 100 percent")
        elif round(step.weight * 100) <= round(before * 100):
            yield Problem(f"{place}.weight", f"{step.weight:g} is not more than in the step before ({before:g})")
        before = step.weight
        yield from check_number(f"{place}.duration", step.for_s, MAX_TIMEOUT_S, "seconds")
    yield from _metadata_name(f"{path}.key", canary.key)
    yield from _matches(f"{path}.match", canary.matches, ())
    yield from _checks(f"{path}.checks", canary.checks)


def _checks(path: str, checks: pb.CanaryChecks) -> Iterator[Problem]:
    yield from check_number(f"{path}.max_error_rate", checks.max_error_rate, 1.0, "(1 is all requests)")
    yield from check_number(f"{path}.max_p99", checks.max_p99_s, MAX_TIMEOUT_S, "seconds")
    yield from check_number(f"{path}.max_p99_ratio", checks.max_p99_ratio, MAX_RATIO, "times")
    yield from check_whole(f"{path}.min_requests", checks.min_requests, 0, MAX_CHECKED_REQUESTS)
