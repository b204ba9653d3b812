"""What the client answers about applications and models. Frozen; made from the keeper's and the replicas' messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving._proto import keeper_pb2 as kpb
from serving._proto import records_pb2 as pb
from serving.store.keys import AppKey


@dataclass(frozen=True, slots=True)
class AppStatus:
    """An application as the keeper sees it. `phase` is a name such as `READY`; `cluster` is "" while it is not placed;
    of one that is being deleted it is where it ends.

    `revision` is the stored one, `serving_revision` the newest that answers (0: none). While `paused`
    no replica is replaced because of `revision`. `view` holds everything.
    """

    namespace: str
    name: str
    phase: str
    message: str
    cluster: str
    generation: int
    revision: int
    serving_revision: int
    deleting: bool
    paused: bool
    conditions: tuple[pb.Condition, ...]
    deployments: tuple[pb.DeploymentStatus, ...]
    reasons: tuple[pb.ClusterReason, ...]
    view: kpb.ApplicationView

    @classmethod
    def from_view(cls, view: kpb.ApplicationView) -> AppStatus:
        spec = view.stored.spec
        ends = view.stored.deleting and not view.decision.cluster  # it is placed no more, and ends where it was
        where = view.status if ends else view.decision
        return cls(
            namespace=spec.namespace,
            name=spec.name,
            phase=phase_name(view.phase),
            message=view.message,
            cluster=where.cluster,
            generation=where.generation,
            revision=view.stored.revision,
            serving_revision=view.status.serving_revision,
            deleting=view.stored.deleting,
            paused=view.stored.paused,
            conditions=tuple(view.status.conditions),
            deployments=tuple(view.status.deployments),
            reasons=tuple(view.decision.reasons),
            view=view,
        )

    @property
    def ready(self) -> bool:
        return self.phase == "READY"

    @property
    def app(self) -> AppKey:
        return AppKey(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class AppEvent:
    """A change that `watch` saw: the application as it is now, or as it last was when `deleted`."""

    status: AppStatus
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class DeployResult:
    """What `deploy` did: the `revision` stored, and whether it is a new one (`changed`).

    `status` is there after `wait=True`; `would_place` after `dry_run=True`.
    """

    namespace: str
    name: str
    revision: int
    changed: bool
    uid: str
    status: AppStatus | None = None
    would_place: pb.Decision | None = None


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """An input or output of a model; -1 in `shape` is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model's name, loaded versions, platform, inputs and outputs."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]

    @classmethod
    def from_response(cls, response: Any) -> ModelMetadata:
        def tensors(entries: Any) -> tuple[TensorMetadata, ...]:
            return tuple(TensorMetadata(entry.name, entry.datatype, tuple(entry.shape)) for entry in entries)

        return cls(
            name=response.name,
            versions=tuple(response.versions),
            platform=response.platform,
            inputs=tensors(response.inputs),
            outputs=tensors(response.outputs),
        )


def phase_name(phase: int) -> str:
    """`READY` and the like; a number that this version does not know is shown as it is."""
    return pb.Phase.Name(phase) if phase in pb.Phase.values() else f"PHASE_{phase}"


def replica_state_name(state: int) -> str:
    """`READY`, `FAILED` and the like, without the prefix of the record."""
    known = state in pb.ReplicaState.values()
    return pb.ReplicaState.Name(state).removeprefix("REPLICA_") if known else f"STATE_{state}"
