"""Which masters to start and to end. Pure. The rules are those of docs/design/0002-store-loss.md."""

from __future__ import annotations

from collections.abc import Iterator

from serving.cluster_agent.model import (
    Action,
    AskOrder,
    EndMaster,
    Judge,
    Master,
    Placed,
    RestorePlacement,
    Situation,
    StartMaster,
)
from serving.master.names import MasterName
from serving.master.order import rank
from serving.store.keys import AppKey


def plan(situation: Situation) -> tuple[Action, ...]:
    """What to do now. Nothing is ended because something is missing: `Judge` reads the records first."""
    actions: list[Action] = []
    for master in situation.masters:
        actions += _for_master(master, situation)
    for app, placed in situation.placements.items():
        running = [master for master in situation.masters if master.name.app == app]
        actions += _for_placement(app, placed, running)
    return tuple(actions)


def _for_master(master: Master, situation: Situation) -> Iterator[Action]:
    if master.ending:
        yield EndMaster(master.name, "as decided before")
        return
    if master.order is None:
        yield AskOrder(master.name)
        return
    placed = situation.placements.get(master.name.app)
    if placed is None:
        if situation.fresh:
            yield Judge(master.name, master.order)
    elif _replaces(placed, master):
        yield EndMaster(master.name, f"generation {placed.order.generation} is placed here in its place")


def _replaces(placed: Placed, master: Master) -> bool:
    """The store holds a later work order for this cluster: of a higher generation, or of an application made anew."""
    if placed.order.generation <= master.name.generation or master.order is None:
        return False
    same = placed.order.stored.uid == master.order.stored.uid
    return same or _created(placed) > master.order.stored.created_at.ToNanoseconds()


def _created(placed: Placed) -> int:
    return int(placed.order.stored.created_at.ToNanoseconds())


def _for_placement(app: AppKey, placed: Placed, running: list[Master]) -> Iterator[Action]:
    order = placed.order
    if any(master.order is None and not master.ending for master in running):
        return  # one of them may have a later order than the store
    newer = [
        master.order
        for master in running
        if master.order is not None
        and not master.ending
        and master.order.stored.uid == order.stored.uid
        and rank(master.order) > rank(order)
    ]
    if newer:
        yield RestorePlacement(max(newer, key=rank), placed.mod_revision)
    elif all(master.name != MasterName(app, order.generation) for master in running):
        yield StartMaster(order)
