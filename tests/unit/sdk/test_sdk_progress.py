"""Is a revision ready, on its way, failed or replaced; and the sentence about it."""

from __future__ import annotations

from typing import Any

import pytest

from serving._proto import keeper_pb2 as kpb
from serving._proto import records_pb2 as pb
from serving.sdk.progress import Stage, assess, describe
from serving.sdk.status import AppStatus, phase_name, replica_state_name


def view(phase: pb.Phase = pb.READY, **changes: Any) -> kpb.ApplicationView:
    """Revision 2 of an application that is ready on east, with changes of the status."""
    status: dict[str, Any] = {
        "uid": "u1",
        "cluster": "east",
        "generation": 1,
        "revision": 2,
        "serving_revision": 2,
        "phase": phase,
    }
    return kpb.ApplicationView(
        stored=pb.StoredSpec(spec=pb.ApplicationSpec(namespace="default", name="a"), revision=2, uid="u1"),
        decision=pb.Decision(uid="u1", cluster="east", generation=1, revision=2),
        status=pb.ApplicationStatus(**(status | changes)),
        phase=phase,
    )


def stage(seen: kpb.ApplicationView) -> Stage:
    return assess(seen, revision=2, uid="u1").stage


def deployment(state: pb.ReplicaState, *, revision: int = 2, reason: str = "") -> pb.DeploymentStatus:
    replica = pb.ReplicaStatus(id="d-r2-0", state=state, revision=revision, reason=reason)
    return pb.DeploymentStatus(name="d", wanted=2, ready=1, replicas=[replica])


def test_ready() -> None:
    progress = assess(view(), revision=2, uid="u1")
    assert (progress.stage, progress.text) == (Stage.READY, "READY on east")


@pytest.mark.parametrize(
    ("phase", "changes", "expected"),
    [
        (pb.STARTING, {"serving_revision": 0}, Stage.WAITING),
        (pb.READY, {"serving_revision": 1}, Stage.WAITING),
        (pb.READY, {"revision": 1, "serving_revision": 1}, Stage.WAITING),
        (pb.READY, {"generation": 0}, Stage.WAITING),
        (pb.READY, {"uid": "older"}, Stage.WAITING),
        (pb.UPDATING, {"serving_revision": 1}, Stage.WAITING),
        (pb.DEGRADED, {}, Stage.WAITING),
        (pb.FAILED, {"serving_revision": 0}, Stage.FAILED),
        (pb.FAILED, {"revision": 1, "serving_revision": 0}, Stage.WAITING),
    ],
)
def test_stages(phase: pb.Phase, changes: dict[str, Any], expected: Stage) -> None:
    assert stage(view(phase, **changes)) is expected


@pytest.mark.parametrize("phase", [pb.DEGRADED, pb.UPDATING])
def test_a_failed_replica_of_the_new_revision_fails_it_while_the_old_one_serves(phase: pb.Phase) -> None:
    broken = deployment(pb.REPLICA_FAILED, reason="no such file: model.onnx")
    progress = assess(view(phase, serving_revision=1, deployments=[broken]), revision=2, uid="u1")
    assert progress.stage is Stage.FAILED
    assert "replica d-r2-0 FAILED: no such file: model.onnx" in progress.text
    older = deployment(pb.REPLICA_FAILED, revision=1)
    assert stage(view(phase, serving_revision=1, deployments=[older])) is Stage.WAITING
    assert stage(view(phase, serving_revision=2, deployments=[broken])) is Stage.WAITING, "one of its replicas serves"


def test_replaced() -> None:
    newer = view()
    newer.stored.revision = 3
    recreated = view()
    recreated.stored.uid = "u2"
    deleting = view()
    deleting.stored.deleting = True
    for seen, says in ((newer, "revision 3 was stored"), (recreated, "created anew"), (deleting, "being deleted")):
        progress = assess(seen, revision=2, uid="u1")
        assert progress.stage is Stage.REPLACED
        assert says in progress.text


def test_a_keeper_that_lags_behind_is_waited_for() -> None:
    seen = view()
    seen.stored.revision = 1
    seen.status.revision = 1
    assert stage(seen) is Stage.WAITING


def test_reasons_of_a_placement() -> None:
    seen = view(pb.PENDING)
    seen.ClearField("status")
    seen.decision.cluster = ""
    assert assess(seen, revision=2, uid="u1").text == "waiting for a placement"
    seen.decision.reasons.add(cluster="east", reason="needs 8 cores, 2 are free")
    assert assess(seen, revision=2, uid="u1").text == "not placed: east: needs 8 cores, 2 are free"
    seen.message = "fits on no cluster: east: full"
    assert assess(seen, revision=2, uid="u1").text == "PENDING: fits on no cluster: east: full"


def test_each_reason_once() -> None:
    conditions = [
        pb.Condition(type="ReplicasReady", status=False, message="1 of 2 replicas are ready"),
        pb.Condition(type="Placed", status=True, message="never shown"),
        pb.Condition(type="RevisionServing", status=False, message="1 of 2 replicas are ready"),
    ]
    found = view(pb.STARTING, conditions=conditions, deployments=[deployment(pb.REPLICA_STARTING)])
    found.message = "1 of 2 replicas are ready"
    assert assess(found, revision=2, uid="u1").text == "STARTING: 1 of 2 replicas are ready"
    assert describe(found, 2) == (
        "STARTING; 1 of 2 replicas are ready; deployment d: 1 of 2 replicas ready; replica d-r2-0 STARTING"
    )


def test_status_from_a_view() -> None:
    status = AppStatus.from_view(view())
    assert (status.namespace, status.name, status.phase, status.cluster) == ("default", "a", "READY", "east")
    assert (status.revision, status.serving_revision, status.generation) == (2, 2, 1)
    assert status.ready
    assert str(status.app) == "default/a"


def test_numbers_of_a_newer_version_are_shown() -> None:
    assert (phase_name(99), replica_state_name(99)) == ("PHASE_99", "STATE_99")
    assert replica_state_name(pb.REPLICA_READY) == "READY"
