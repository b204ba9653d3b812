"""The JSON shapes of the answers. They are a contract: documented in docs/guides/cli.md, fields are only ever added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving.cli.output import iso
from serving.types import DISPATCH_PUSH

if TYPE_CHECKING:
    from serving._proto import keeper_pb2 as api
    from serving._proto import records_pb2 as pb
    from serving.sdk.status import AppStatus, DeployResult


def application(status: AppStatus) -> dict[str, Any]:
    """An application as `mesh status --json` shows it."""
    return {
        "namespace": status.namespace,
        "name": status.name,
        "phase": status.phase,
        "message": status.message,
        "ready": status.ready,
        "cluster": status.cluster,
        "generation": status.generation,
        "revision": status.revision,
        "serving_revision": status.serving_revision,
        "paused": status.paused,
        "deleting": status.deleting,
        "reasons": reasons(status.reasons),
        "conditions": [
            {
                "type": item.type,
                "status": item.status,
                "reason": item.reason,
                "message": item.message,
                "since": iso(item.since),
            }
            for item in status.conditions
        ],
        "deployments": [deployment(item) | {"dispatch": dispatch_of(status, item.name)} for item in status.deployments],
        "metrics_address": status.view.status.metrics_address,
    }


def dispatch_of(status: AppStatus, name: str) -> str:
    """How the stored spec wants requests to be brought to the deployment: `push` or `pull`."""
    found = (one.dispatch for one in status.view.stored.spec.deployments if one.name == name)
    return next(found, "") or DISPATCH_PUSH


def reasons(items: Any) -> list[dict[str, str]]:
    return [{"cluster": item.cluster, "reason": item.reason} for item in items]


def deployment(item: pb.DeploymentStatus) -> dict[str, Any]:
    return {
        "name": item.name,
        "wanted": item.wanted,
        "ready": item.ready,
        "old_ready": item.old_ready,
        "failures": item.failures,
        "reason": item.reason,
        "retry_at": iso(item.retry_at),
        "scaling": [
            {"at": iso(one.at), "before": one.before, "after": one.after, "reason": one.reason} for one in item.scaling
        ],
        "canary": canary(item),
        "replicas": [replica(one) for one in item.replicas],
    }


def canary(item: pb.DeploymentStatus) -> dict[str, Any] | None:
    """Where the canary of a deployment is; None where none is under way. `weight` in percent, `step` from 1."""
    if not item.HasField("canary"):
        return None
    told = item.canary
    return {
        "phase": told.phase,
        "step": told.step,
        "steps": told.steps,
        "weight": told.weight,
        "since": iso(told.since),
        "reason": told.reason,
    }


def split(item: pb.TrafficSplit) -> dict[str, Any]:
    """A traffic split; `percent` is what a side gets of the requests that neither header nor key decides."""
    total = sum(side.weight for side in item.sides)
    shadow = {"deployment": item.shadow.deployment, "percent": item.shadow.percent} if item.HasField("shadow") else None
    return {
        "name": item.name,
        "model": item.model,
        "sides": [
            {"deployment": side.deployment, "weight": side.weight, "percent": 100.0 * side.weight / total}
            for side in item.sides
        ],
        "key": item.key,
        "matches": [{"header": one.header, "value": one.value, "deployment": one.side} for one in item.matches],
        "shadow": shadow,
    }


def replica(item: pb.ReplicaStatus) -> dict[str, Any]:
    from serving.sdk.status import replica_state_name

    return {
        "id": item.id,
        "state": replica_state_name(item.state),
        "node": item.node,
        "address": item.address,
        "pid": item.pid,
        "restarts": item.restarts,
        "revision": item.revision,
        "reason": item.reason,
        "since": iso(item.since),
    }


def endpoint(item: pb.Endpoint) -> dict[str, Any]:
    return {
        "application": f"{item.namespace}/{item.application}",
        "id": item.id,
        "address": item.address,
        "protocol": item.protocol,
        "role": item.role,
        "deployment": item.deployment,
        "models": [{"name": model.name, "versions": list(model.versions)} for model in item.models],
        "cluster": item.cluster,
        "node": item.node,
        "revision": item.revision,
        "generation": item.generation,
        "weight": item.weight or 100,
        "state": item.state,
        "tls": item.tls,
        "pid": item.pid,
        "metrics_address": item.metrics_address,
        "labels": dict(item.labels),
    }


def resources(item: pb.Resources) -> dict[str, Any]:
    return {
        "cpus": item.cpus,
        "gpus": item.gpus,
        "memory_bytes": item.memory_bytes,
        "accelerator_type": item.accelerator_type,
        "custom": dict(item.custom),
    }


def cluster(view: api.ClusterView) -> dict[str, Any]:
    record = view.record
    return {
        "name": record.name,
        "alive": view.alive,
        "last_seen": iso(view.last_seen),
        "total": resources(record.total),
        "available": resources(record.available),
        "mesh_used": resources(record.mesh_used),
        "pending": resources(record.pending),
        "labels": dict(record.labels),
        "versions": dict(record.versions),
        "metrics_address": record.metrics_address,
        "applications": [f"{item.namespace}/{item.name}" for item in view.applications],
        "nodes": [
            {
                "id": node.id,
                "address": node.address,
                "head": node.head,
                "total": resources(node.total),
                "available": resources(node.available),
                "labels": dict(node.labels),
            }
            for node in record.nodes
        ],
    }


def decision(item: pb.Decision) -> dict[str, Any]:
    return {
        "cluster": item.cluster,
        "generation": item.generation,
        "why": item.why,
        "reasons": reasons(item.reasons),
    }


def deployed(result: DeployResult) -> dict[str, Any]:
    return {
        "namespace": result.namespace,
        "name": result.name,
        "revision": result.revision,
        "changed": result.changed,
        "uid": result.uid,
        "status": application(result.status) if result.status else None,
        "would_place": decision(result.would_place) if result.would_place else None,
    }


def revision(item: pb.StoredSpec) -> dict[str, Any]:
    return {
        "revision": item.revision,
        "created_at": iso(item.created_at),
        "author": item.author,
        "note": item.note,
        "uid": item.uid,
        "deployments": [
            {
                "name": one.name,
                "kind": one.WhichOneof("kind"),
                "replicas": one.replicas.min,
                "digest": _artifact(one).digest,
            }
            for one in item.spec.deployments
        ],
    }


def _artifact(deployment: pb.DeploymentSpec) -> pb.Artifact:
    """What is packed of it, or the more of two."""
    kind = deployment.WhichOneof("kind")
    if kind in ("llm", "embedding"):
        weights: pb.Artifact = getattr(deployment, kind).weights
        return weights
    if kind in ("python", "cpp", "serve"):
        code: pb.Artifact = getattr(deployment, kind).code
        return code
    return deployment.triton.repository
