"""What is said of an application that is gone: where it last ran, and its last revision."""

from __future__ import annotations

from keeper.views import farewell
from serving._proto import keeper_pb2 as api
from serving._proto import records_pb2 as pb
from serving.sdk.status import AppStatus


def view(revision: int, cluster: str, *, uid: str = "u", deleting: bool = False) -> api.ApplicationView:
    spec = pb.ApplicationSpec(namespace="default", name="digits", deployments=[pb.DeploymentSpec(name="digits")])
    return api.ApplicationView(
        stored=pb.StoredSpec(spec=spec, revision=revision, uid=uid, deleting=deleting),
        decision=pb.Decision(uid=uid, cluster=cluster, generation=3) if cluster else None,
    )


def test_the_last_known_cluster_outlives_the_decision() -> None:
    placed = farewell(view(4, "east"), None)
    last = farewell(view(5, "", deleting=True), placed)
    assert (last.stored.revision, last.decision.cluster, last.decision.generation) == (5, "east", 3)
    assert (last.stored.spec.namespace, last.stored.spec.name) == ("default", "digits")
    assert not last.stored.spec.deployments  # a watcher keeps one of these for each application


def test_a_watch_that_opens_during_the_end_takes_the_cluster_from_the_status() -> None:
    ending = view(5, "", deleting=True)
    ending.status.MergeFrom(pb.ApplicationStatus(uid="u", cluster="west", generation=2))
    assert farewell(ending, None).decision.cluster == "west"
    shown = AppStatus.from_view(ending)
    assert (shown.cluster, shown.generation) == ("west", 2)


def test_an_application_of_the_same_name_inherits_nothing() -> None:
    assert farewell(view(1, "", uid="new"), farewell(view(4, "east"), None)).decision.cluster == ""
