from __future__ import annotations

import pytest
from keeper_builders import decision, stored

from keeper.phase import derive
from keeper.placement import Liveness
from serving._proto import records_pb2 as pb

ALIVE = {"east": Liveness.ALIVE}


def status(**fields: object) -> pb.ApplicationStatus:
    values = {"uid": "uid-a", "cluster": "east", "generation": 1, "revision": 1, "serving_revision": 1}
    return pb.ApplicationStatus(**{**values, "phase": pb.READY, "message": "2 of 2 ready", **fields})  # type: ignore[arg-type]


def refused(**reasons: str) -> pb.Decision:
    items = [pb.ClusterReason(cluster=name, reason=reason) for name, reason in reasons.items()]
    return pb.Decision(uid="uid-a", revision=1, reasons=items)


def test_stored_but_not_decided() -> None:
    assert derive(stored(), None, None, ALIVE) == (
        pb.PENDING,
        "waiting for the leading keeper to decide a placement",
    )


def test_nowhere() -> None:
    phase, message = derive(stored(), refused(east="too small", west="label missing"), None, ALIVE)
    assert (phase, message) == (pb.PENDING, "fits on no cluster: east: too small; west: label missing")
    phase, message = derive(stored(), refused(), None, {})
    assert (phase, message) == (pb.PENDING, "no cluster is registered; start one, or wait until its agent reports")


def test_placed_and_not_reported() -> None:
    phase, message = derive(stored(), decision("east", stored()), None, ALIVE)
    assert phase == pb.STARTING
    assert message == "placed on cluster east (generation 1); its master has not reported yet"


def test_the_master_s_word_is_taken() -> None:
    assert derive(stored(), decision("east", stored()), status(), ALIVE) == (pb.READY, "2 of 2 ready")
    failed = status(phase=pb.FAILED, message="model digits: input 0 has 3 dims, config says 4", serving_revision=0)
    assert derive(stored(), decision("east", stored()), failed, ALIVE)[1].startswith("model digits")


@pytest.mark.parametrize("other", [{"uid": "uid-b"}, {"generation": 1}])
def test_a_status_of_another_creation_or_an_older_generation_is_not(other: dict[str, object]) -> None:
    phase, _ = derive(stored(), decision("east", stored(), 2), status(**other), ALIVE)
    assert phase == pb.STARTING


def test_a_new_revision() -> None:
    new, old = stored(revision=2), stored()
    assert derive(new, decision("east", old), status(), ALIVE) == (
        pb.UPDATING,
        "revision 2 waits for the leading keeper",
    )
    phase, message = derive(new, decision("east", new), status(), ALIVE)
    assert (phase, message) == (pb.UPDATING, "the master on east has not taken up revision 2 yet")
    waiting = decision("east", old)
    waiting.reasons.add(cluster="east", reason="too small")
    phase, message = derive(new, waiting, status(), ALIVE)
    assert phase == pb.DEGRADED
    assert message == "revision 2 fits on no cluster: east: too small; revision 1 keeps serving on east"


def test_a_cluster_that_is_silent_or_gone() -> None:
    placed = decision("east", stored())
    phase, message = derive(stored(), placed, status(), {"east": Liveness.SILENT})
    assert phase == pb.READY
    assert message.startswith("cluster east does not report")
    assert derive(stored(), placed, status(), {"east": Liveness.GONE}) == (
        pb.PENDING,
        "cluster east is gone; it is being placed elsewhere",
    )
    placed.reasons.add(cluster="west", reason="too small")
    assert "no other cluster fits: west: too small" in derive(stored(), placed, status(), {})[1]


def test_deleting_and_restored() -> None:
    phase, message = derive(stored(deleting=True), None, status(), ALIVE)
    assert (phase, message) == (pb.DELETING, "waiting for the application to end on cluster east")
    placed = decision("east", stored())
    placed.why = "restored from the work order of cluster east"
    assert derive(stored(), placed, status(), ALIVE)[1] == f"2 of 2 ready; {placed.why}"
