"""What the service answers, made from what the keeper knows. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from keeper.clusters import ClusterBook
from keeper.phase import derive
from keeper.picture import AppState, Picture
from keeper.placement import Liveness
from serving._proto import keeper_pb2 as api
from serving.stamps import stamp


def application(app: AppState, liveness: Mapping[str, Liveness], *, note: str = "") -> api.ApplicationView:
    """The joined view of an application that has a spec; `note` goes before the message."""
    view = api.ApplicationView()
    if app.spec is None:
        return view
    view.stored.CopyFrom(app.spec.value)
    if app.decision is not None:
        view.decision.CopyFrom(app.decision.value)
    if app.status is not None:
        view.status.CopyFrom(app.status.value)
    view.phase, message = derive(
        app.spec.value,
        app.decision.value if app.decision else None,
        app.status.value if app.status else None,
        liveness,
    )
    view.message = ": ".join(part for part in (note, message) if part)
    return view


def farewell(view: api.ApplicationView, before: api.ApplicationView | None) -> api.ApplicationView:
    """What will stand for an application once it is no longer there: who it was, its revision and where it last ran.

    `before` is the farewell made of the view before this one: the decision is gone before the application is.
    """
    last = api.ApplicationView()
    stored = view.stored
    last.stored.uid, last.stored.revision = stored.uid, stored.revision
    last.stored.spec.namespace, last.stored.spec.name = stored.spec.namespace, stored.spec.name
    if view.decision.cluster:
        decision = view.decision
        last.decision.uid, last.decision.cluster = decision.uid, decision.cluster
        last.decision.generation, last.decision.revision = decision.generation, decision.revision
    elif before is not None and before.stored.uid == stored.uid:
        last.decision.CopyFrom(before.decision)
    elif view.status.uid == stored.uid:
        last.decision.cluster, last.decision.generation = view.status.cluster, view.status.generation
    return last


def clusters(picture: Picture, book: ClusterBook, now_s: float) -> api.ListClustersResponse:
    """Every cluster that is there, or was and still has applications, with what is placed on it."""
    response = api.ListClustersResponse()
    for state in book.states(now_s):
        view = response.clusters.add(record=state.record, alive=state.liveness is Liveness.ALIVE)
        seen = book.last_seen_s(state.name)
        if seen:
            view.last_seen.CopyFrom(stamp(seen))
        for key in sorted(picture.apps):
            if state.name in picture.apps[key].placements:
                view.applications.add(namespace=key.namespace, name=key.name)
    return response
