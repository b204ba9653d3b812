"""Applications and endpoints as tables and text for people."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serving.cli.output import ago, coloured, table
from serving.cli.shapes import canary, dispatch_of
from serving.types import DISPATCH_PULL

if TYPE_CHECKING:
    from serving._proto import records_pb2 as pb
    from serving.sdk import AppStatus

_COUNTED = ("ReplicasReady", "RevisionServing")  # conditions that are counted from deployments and replicas
APP_HEADERS = ("NAMESPACE", "NAME", "PHASE", "REPLICAS", "CLUSTER", "REVISION", "MESSAGE")
ENDPOINT_HEADERS = (
    "APPLICATION",
    "ID",
    "DEPLOYMENT",
    "ROLE",
    "PROTOCOL",
    "STATE",
    "ADDRESS",
    "CLUSTER",
    "REVISION",
    "MODELS",
)


def row(item: AppStatus) -> tuple[object, ...]:
    """One line of the table of applications."""
    ready = sum(one.ready for one in item.deployments)
    wanted = sum(one.wanted for one in item.deployments)
    revision = str(item.revision)
    if item.serving_revision and item.serving_revision != item.revision:
        revision = f"{item.serving_revision} → {item.revision}"
    replicas = f"{ready}/{wanted}" if wanted else "-"
    return (item.namespace, item.name, item.phase, replicas, item.cluster or "-", revision, item.message)


def one_application(item: AppStatus) -> str:
    """Everything known of one application, each fact once: where it belongs, not in the summary too."""
    from serving.sdk.status import replica_state_name

    where = f"{item.cluster} (generation {item.generation})" if item.cluster else "nowhere"
    serving = f"revision {item.serving_revision}" if item.serving_revision else "nothing yet"
    lines = [
        f"{item.namespace}/{item.name}  {coloured(item.phase)}",
        f"  {message}" if (message := _beside_deployments(item)) else "",
        f"  placed    {where}",
        f"  revision  {item.revision}, serves {serving}",
    ]
    lines += [f"  {reason.cluster or '*'}: {reason.reason}" for reason in item.reasons]
    told = _COUNTED if item.deployments else ()
    lines += [
        f"  not {one.type}: {one.message or one.reason}"
        for one in item.conditions
        if not one.status and one.type not in told
    ]
    for deployment in item.deployments:
        text = deployment.reason or f"{deployment.ready} of {deployment.wanted} replicas are ready"
        lines += ["", f"deployment {deployment.name}: {text}", *_last_decision(deployment), *_canary(deployment)]
        if dispatch_of(item, deployment.name) == DISPATCH_PULL:
            lines.append("  dispatch: pull, through its broker")
        rows = [
            (
                one.id,
                replica_state_name(one.state),
                one.address or "-",
                one.pid or "-",
                one.restarts,
                one.revision,
                "" if one.reason in deployment.reason else one.reason,
            )
            for one in deployment.replicas
        ]
        if rows:
            lines.append(table(("REPLICA", "STATE", "ADDRESS", "PID", "RESTARTS", "REVISION", "REASON"), rows))
    return "\n".join(line for index, line in enumerate(lines) if line or index > 1)


def _last_decision(deployment: pb.DeploymentStatus) -> list[str]:
    """The last change of the number of replicas by autoscaling."""
    if not deployment.scaling:
        return []
    last = deployment.scaling[-1]
    return [f"  scaled {last.before} → {last.after} {ago(last.at.ToNanoseconds() / 1e9, time.time())}: {last.reason}"]


def _canary(deployment: pb.DeploymentStatus) -> list[str]:
    told = canary(deployment)
    return [f"  canary: {canary_text(told)}"] if told is not None else []


def canary_text(told: Mapping[str, Any]) -> str:
    """What `shapes.canary` found, as a line."""
    if told["phase"] == "failed":
        return f"failed: {told['reason']}"
    step = f"step {told['step']} of {told['steps']}, " if told["phase"] == "stepping" else "after its last step, "
    return f"{step}{told['weight']:g} % of the requests: {told['reason']}"


def _beside_deployments(item: AppStatus) -> str:
    """What the message says that the lines of the deployments do not."""
    ready, wanted = (sum(getattr(one, name) for one in item.deployments) for name in ("ready", "wanted"))
    reasons = "; ".join(f"{one.name}: {one.reason}" for one in item.deployments if one.reason)
    rest = item.message
    for known in (reasons, f"{ready} of {wanted} replicas are ready" if item.deployments else ""):
        rest = rest.replace(known, "") if known else rest
    return rest.strip(" ;:")


def endpoint_table(found: tuple[pb.Endpoint, ...]) -> str:
    """The table of endpoints."""
    rows = [
        (
            f"{item.namespace}/{item.application}",
            item.id,
            item.deployment or "-",
            item.role,
            item.protocol or "-",
            item.state,
            item.address,
            item.cluster,
            item.revision,
            ", ".join(f"{model.name}:{'/'.join(model.versions) or '-'}" for model in item.models),
        )
        for item in found
    ]
    return table(ENDPOINT_HEADERS, rows)
