"""The work order: which one counts, and what it wants of each deployment. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from serving._proto import records_pb2 as pb
from serving.broker.pulled import with_pulled
from serving.master.model import Goal, Replica
from serving.master.plan import DEFAULT_DRAIN_S
from serving.master.replica import ReplicaLimits
from serving.store.keys import AppKey

DEFAULT_START_S = 120.0
IN_PLACE = "in_place"  # of `TritonDeployment.update`


def app_key(order: pb.Placement) -> AppKey:
    return AppKey(order.stored.spec.namespace, order.stored.spec.name)


def rank(order: pb.Placement) -> tuple[int, int]:
    """Orders of one `uid` only grow."""
    return order.generation, order.stored.revision


def supersedes(new: pb.Placement, own: pb.Placement) -> bool:
    """True when a master of `own` must follow `new`: the same application, cluster and generation, a later revision.

    Another generation is another master's, and a lower revision is old. The same revision may be paused and resumed,
    and its canaries promoted.
    """
    same = new.stored.uid == own.stored.uid and new.cluster == own.cluster and new.generation == own.generation
    turned = new.stored.revision == own.stored.revision and _turned(new.stored) != _turned(own.stored)
    return same and (new.stored.revision > own.stored.revision or turned)


def _turned(stored: pb.StoredSpec) -> tuple[bool, int]:
    return stored.paused, stored.promoted


def goals(
    order: pb.Placement,
    running: Iterable[int],
    specs: Mapping[int, pb.ApplicationSpec | None],
    sizes: Mapping[str, int] | None = None,
    busy: Mapping[str, frozenset[str]] | None = None,
) -> tuple[Goal, ...]:
    """One goal per deployment. `running` are the revisions of which replicas run; `specs` what is known of them.
    `sizes` are the numbers of replicas of deployments whose number is not fixed, `busy` the ids of replicas of each
    whose items of brokers a drain would cut off.

    A revision maps to None when its spec is known to be lost; it is absent while nobody has said.
    """
    older = [revision for revision in running if revision != order.stored.revision]
    numbers = {spec.name: spec.replicas.min for spec in order.stored.spec.deployments} | dict(sizes or {})
    return tuple(
        Goal(
            deployment=wanted.name,
            replicas=numbers[wanted.name],
            revision=order.stored.revision,
            same=frozenset(number for number in older if _same(wanted, specs.get(number), order.stored.spec)),
            unknown=frozenset(number for number in older if number not in specs),
            updatable=frozenset(number for number in older if _updatable(wanted, specs.get(number), order.stored.spec)),
            drain_timeout_s=wanted.drain_timeout_s or DEFAULT_DRAIN_S,
            paused=order.stored.paused,
            enough=wanted.replicas.min if wanted.HasField("autoscaling") else None,
            fronts=wanted.HasField("proxy"),
            busy=(busy or {}).get(wanted.name, frozenset()),
            **_pace(wanted, numbers[wanted.name]),
        )
        for wanted in order.stored.spec.deployments
    )


def _pace(wanted: pb.DeploymentSpec, replicas: int) -> dict[str, Any]:
    """How quickly replicas are replaced. A share is rounded so that it never stops a rollout.

    A semantic cache leaves first: the next one takes over its folder, and meanwhile requests miss.
    """
    rollout = wanted.rollout
    if wanted.HasField("semantic_cache"):
        return {"max_surge": 0, "max_unavailable": 1, "min_ready_s": rollout.min_ready_s}
    surge = math.ceil(replicas * rollout.max_surge.percent / 100) + rollout.max_surge.count
    missing = replicas * rollout.max_unavailable.percent // 100 + rollout.max_unavailable.count
    usual = not rollout.HasField("max_surge") or surge + missing == 0
    return {
        "max_surge": 1 if usual else surge,
        "max_unavailable": missing,
        "min_ready_s": rollout.min_ready_s,
    }


def without_given_up(goal: Goal, replicas: Iterable[Replica]) -> Goal:
    """Where loading the wanted models ended a process, or went on for ever, only new replicas may try it again."""
    gave_up = any(row.given_up == goal.revision and row.name.deployment == goal.deployment for row in replicas)
    return replace(goal, updatable=frozenset()) if gave_up else goal


def limits(order: pb.Placement, deployment: str) -> ReplicaLimits:
    for spec in order.stored.spec.deployments:
        if spec.name == deployment:
            return ReplicaLimits(start_timeout_s=spec.start_timeout_s or DEFAULT_START_S)
    return ReplicaLimits(start_timeout_s=DEFAULT_START_S)


def _same(wanted: pb.DeploymentSpec, other: pb.ApplicationSpec | None, own: pb.ApplicationSpec) -> bool:
    """True when replicas of `other` need not be replaced: nothing but their number differs. `wanted` is of `own`."""
    if other is None:
        return False
    target = _without_number(with_pulled(wanted, own))
    return any(_without_number(with_pulled(spec, other)) == target for spec in other.deployments)


def _updatable(wanted: pb.DeploymentSpec, other: pb.ApplicationSpec | None, own: pb.ApplicationSpec) -> bool:
    """True when a replica of `other` becomes one of `wanted` while it runs: nothing differs but what may change so.

    These are the models of a Triton deployment that says `in_place`, and the `config` of a Python or C++ deployment.
    """
    in_place = wanted.triton.update == IN_PLACE or wanted.HasField("python") or wanted.HasField("cpp")
    in_place = in_place and not wanted.rollout.HasField("canary")  # which needs both revisions
    if other is None or not in_place or _same(wanted, other, own):
        return False
    return any(_lasting(spec) == _lasting(wanted) for spec in other.deployments)


def _without_number(spec: pb.DeploymentSpec) -> pb.DeploymentSpec:
    copy = pb.DeploymentSpec()
    copy.CopyFrom(spec)
    copy.ClearField("replicas")
    copy.ClearField("autoscaling")
    copy.ClearField("rollout")  # says how to get there, not what is wanted
    copy.ClearField("replace_slow")  # the master's own business
    copy.ClearField("dispatch")  # its broker's business
    if copy.HasField("triton"):
        copy.triton.ClearField("update")  # says how to get there, not what is wanted
    return copy


def _lasting(spec: pb.DeploymentSpec) -> pb.DeploymentSpec:
    """Without what may change in a process that runs."""
    copy = _without_number(spec)
    if copy.HasField("python"):
        copy.python.ClearField("config")
    if copy.HasField("cpp"):
        copy.cpp.ClearField("config")
    if copy.HasField("triton"):
        copy.triton.ClearField("repository")
        copy.triton.ClearField("models")
    return copy
