"""Which of two records of the same key is the later one. Pure. See docs/design/0002-store-loss.md, rule 2."""

from __future__ import annotations

from collections.abc import Iterable

from keeper.picture import AppState, Versioned
from serving._proto import records_pb2 as pb


def spec_order(stored: pb.StoredSpec) -> tuple[int, int, bool]:
    """Within one uid: by revision, then by the time it was made; a deletion is never taken back."""
    return stored.revision, _nanoseconds(stored), stored.deleting


def decision_order(decision: pb.Decision) -> tuple[int, int]:
    return decision.generation, decision.revision


def placement_order(placement: pb.Placement) -> tuple[int, int]:
    return placement.generation, placement.stored.revision


def is_later(left: pb.StoredSpec, right: pb.StoredSpec) -> bool:
    """True when `left` is a later truth than `right`, also across creations of the application."""
    if left.uid == right.uid:
        return spec_order(left) > spec_order(right)
    return _nanoseconds(left) > _nanoseconds(right)


def highest(app: AppState, placements: Iterable[Versioned[pb.Placement]]) -> Versioned[pb.Placement] | None:
    """The placement that proves the latest state of the application, tombstoned ones aside."""
    living = [placed for placed in placements if placed.value.stored.uid not in app.tombstones]
    if not living:
        return None
    newest = living[0].value.stored
    for placed in living:
        if is_later(placed.value.stored, newest):
            newest = placed.value.stored
    of_newest = [placed for placed in living if placed.value.stored.uid == newest.uid]
    return max(of_newest, key=lambda placed: (placement_order(placed.value), placed.value.cluster))


def _nanoseconds(stored: pb.StoredSpec) -> int:
    return int(stored.created_at.seconds) * 1_000_000_000 + int(stored.created_at.nanos)
