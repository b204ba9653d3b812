"""Why a master runs without a placement, and what follows: the table of docs/design/0002-store-loss.md. Pure."""

from __future__ import annotations

from serving._proto import records_pb2 as pb


def must_end(order: pb.Placement, spec: pb.StoredSpec | None, decision: pb.Decision | None, *, tombstone: bool) -> str:
    """The record that ends a master of `order`, in words; empty when there is none and the store lost the placement."""
    uid = order.stored.uid
    if tombstone:
        return "the application was deleted"
    if spec is not None and spec.uid == uid and spec.deleting:
        return "the application is being deleted"
    if decision is not None and decision.uid == uid and _moved(order, decision):
        return f"the application moved to {decision.cluster or 'nowhere'} as generation {decision.generation}"
    later = spec is not None and spec.created_at.ToNanoseconds() > order.stored.created_at.ToNanoseconds()
    if spec is not None and spec.uid != uid and later:
        return "the application was deleted and created anew"
    return ""


def _moved(order: pb.Placement, decision: pb.Decision) -> bool:
    if decision.generation == order.generation:
        return bool(decision.cluster) and decision.cluster != order.cluster
    return decision.generation > order.generation
